"""A training group whose key-value store listens only on its own node's address.

For Ray Train, torch makes a process group, for which the first worker runs a key-value store. torch's store listens on
every interface and requires no authentication. Ours gets a socket bound to the address at which the workers meet:
loopback on a single node, the node's own address in a cluster.
"""

from __future__ import annotations

import importlib
import ipaddress
import socket
from datetime import timedelta

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from torch.distributed import TCPStore  # type: ignore[attr-defined]

_BACKLOG = 1024


class BoundTorchConfig(TorchConfig):
    """Ray Train's settings of torch, with a bound store."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """The backend that makes the group."""
        return _BoundBackend


class _BoundBackend(_TorchBackend):
    def on_start(self, worker_group: object, backend_config: TorchConfig) -> None:
        """Bind the stores before the workers meet."""
        worker_group.execute(bind_stores)  # type: ignore[attr-defined]  # either of Ray's two kinds of group
        super().on_start(worker_group, backend_config)


def bind_stores() -> None:
    """Make the stores of this process listen, from now on, at the address they are given."""
    # By name: a function of the same name hides the module as an attribute of its package.
    vars(importlib.import_module("torch.distributed.rendezvous"))["_create_c10d_store"] = bound_store


def bound_store(
    hostname: str, port: int, rank: int, world_size: int, timeout: timedelta, use_libuv: bool = True
) -> TCPStore:
    """Make torch's store from `MASTER_ADDR` and `MASTER_PORT`: the server in the first worker, else a client."""
    if rank != 0:
        return TCPStore(hostname, port, world_size, False, timeout, use_libuv=use_libuv)
    family = socket.AF_INET6 if ipaddress.ip_address(hostname).version == 6 else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((hostname, port))
    listening.listen(_BACKLOG)
    return TCPStore(hostname, port, world_size, True, timeout, master_listen_fd=listening.detach(), use_libuv=use_libuv)
