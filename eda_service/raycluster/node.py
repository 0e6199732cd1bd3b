"""A Ray node of ours as a child process: the common part of a head and of a node that joins it, and the latter.

A node has its own ports and its own directory, carries a mark in its environment, and is stopped with everything it
started. `ray stop` is never used: it would stop every Ray on the machine.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

import eda_service
from eda_service.errors import InputError
from eda_service.raycluster import processes
from eda_service.raycluster.node_directory import NodeDirectory
from eda_service.raycluster.token import token_path, with_token

LOOPBACK = "127.0.0.1"
NUM_LOGICAL_CPUS = 8  # more than cores: stages take fractions, and actors that held every CPU would block other stages
OBJECT_STORE_BYTES = 500_000_000
STOP_WAIT_S = 5  # time for a cancelled driver to end cleanly; the service promises 10 s
_STOP_TIMEOUT_S = 10.0
_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
)


def repository_root() -> Path:
    """Return the directory that holds the packages `eda_service`, `api` and `jobs`."""
    return Path(eda_service.__file__).resolve().parents[1]


def child_env(home: Path) -> dict[str, str]:
    """Make the environment of our children, with our packages, this interpreter, this home and its cluster's token.

    They import nothing from the directory in which they were started, where a user may have a file of any name.
    """
    paths = [str(repository_root()), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "EDA_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONSAFEPATH": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    return with_token(env, home)


def interface_of(node_ip: str) -> str:
    """Return the name of the network interface that has an address.

    Raises:
        InputError: No interface of this machine has the address.
    """
    addresses = psutil.net_if_addrs()
    for name, found in addresses.items():
        if any(each.family == socket.AF_INET and each.address == node_ip for each in found):
            return str(name)
    known = sorted(each.address for found in addresses.values() for each in found if each.family == socket.AF_INET)
    raise InputError(f"this machine has no address {node_ip!r}; it has {', '.join(known)}", param="node_ip")


def own_address_towards(address: str) -> str:
    """Return the address of this machine from which packets to `host:port` are sent; nothing is sent."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"{address!r} is not host:port; `eda up` prints the address to join", param="address")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))
        except (OSError, OverflowError) as error:
            raise InputError(f"no way from here to {address}: {error}", param="address") from error
        return str(probe.getsockname()[0])


def worker_niceness() -> dict[str, str]:
    """Set the niceness of Ray's workers to 0, unless the environment has another value.

    With Ray's default of 15 a replica or a trainer gets 3 % of a core that any other process on the machine uses.
    """
    return _unless_set({"RAY_worker_niceness": "0"})


def serve_threads() -> dict[str, str]:
    """Set Ray Serve to one event loop per process, unless the environment has other values.

    Serve's own default runs a deployment's code and the router on further threads and its controller ten times a
    second, on the cores that decode. Ours computes on the engine's thread, so nothing blocks the loop.
    """
    return _unless_set(
        {
            "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
            "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
            "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        }
    )


def no_metrics() -> dict[str, str]:
    """Switch Ray's three exporters of metrics off, unless the environment has other values.

    They answer everybody, without a token. The service has its own metrics at `/metrics`. The exporters of dashboard
    and autoscaler have no switch; with an invalid port they do not start, which their logs report.
    """
    return _unless_set(
        {"RAY_enable_metrics_collection": "0", "DASHBOARD_METRIC_PORT": "-1", "AUTOSCALER_METRIC_PORT": "-1"}
    )


def loopback_only(alone: bool) -> dict[str, str]:
    """Set whether a node listens on loopback only, with all servers of Ray, its workers and its replicas.

    Without this switch Ray replaces a loopback address by one that others can reach. The switch is named after the
    systems where it is off by default; it does the same on Linux.
    """
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if alone else "1"}


def _unless_set(defaults: Mapping[str, str]) -> dict[str, str]:
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def node_env(node_ip: str, *, alone: bool = False) -> dict[str, str]:
    """Make the environment of Ray and the training workers of one node.

    Args:
        node_ip: Address of the node.
        alone: Whether no other node ever joins it.
    """
    interface = interface_of(node_ip)
    env = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_JOB_STOP_SIGNAL": "SIGINT",  # Ray Train aborts cleanly on SIGINT, not on SIGTERM
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        **worker_niceness(),
        **serve_threads(),
        **no_metrics(),
        **loopback_only(alone),
        # Without these gloo and NCCL use the address of the hostname, on many machines 127.0.1.1.
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", interface),
        "NCCL_SOCKET_IFNAME": os.environ.get("NCCL_SOCKET_IFNAME", interface),
    }
    if shutil.which("nvidia-smi") is None:
        env["DS_ACCELERATOR"] = "cpu"
    return env


def start_command(options: Mapping[str, object], *, flags: Sequence[str] = (), taken: Sequence[int] = ()) -> list[str]:
    """Make the command `ray start --block` with these options, free ports, and limits on resources.

    Args:
        options: Options of `ray start`, without dashes.
        flags: Options without a value.
        taken: Ports that are reserved for other uses.
    """
    worker_base = random.randrange(20_000, 31_000, 500)  # below the ephemeral ports, where free_ports looks
    ports = zip(_PORTS, processes.free_ports(len(_PORTS), exclude=taken), strict=True)
    every = {
        **options,
        "min-worker-port": worker_base,
        "max-worker-port": worker_base + 499,
        "object-store-memory": OBJECT_STORE_BYTES,
        **dict(ports),
    }
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *(f"--{flag}" for flag in flags)]
    return [*start, *(f"--{name}={value}" for name, value in every.items())]


class JoinedNode:
    """A node of this machine in a cluster whose head is elsewhere.

    Args:
        home: State root that head and node share; holds the cluster's token.
        log_path: File for the node's own output.
        head_address: Address of the head, as `host:port`.
        node_ip: Address of this machine for the other nodes.
        num_cpus: Number of logical CPUs it offers.
    """

    def __init__(self, home: Path, log_path: Path, *, head_address: str, node_ip: str, num_cpus: int) -> None:
        self._home, self._log_path = home, log_path
        self._head_address, self._node_ip, self._num_cpus = head_address, node_ip, num_cpus
        self._child: subprocess.Popen[bytes] | None = None
        self.mark = secrets.token_hex(16)
        self.directory = NodeDirectory()

    def require_home(self) -> None:
        """Check that the home belongs to a cluster.

        Raises:
            InputError: The home has no token.
        """
        if not token_path(self._home).is_file():
            raise InputError(
                f"{self._home} holds no cluster's token; give the --home of `eda up`, on storage both machines share",
                param="home",
            )

    def start(self) -> None:
        """Start the node, after removing whatever an earlier one left running.

        Raises:
            InputError: The home has no token, so it is not the cluster's.
        """
        self.require_home()
        processes.kill_marked(self.mark, sessions=() if self._child is None else (self._child.pid,))
        options = {
            "address": self._head_address,
            "node-ip-address": self._node_ip,
            "num-cpus": self._num_cpus,
            "temp-dir": self.directory.ray,
        }
        env = {**child_env(self._home), **node_env(self._node_ip), **self.directory.env}
        self._child = processes.start(start_command(options), env=env, mark=self.mark, log_path=self._log_path)

    def is_alive(self) -> bool:
        """Whether the node's process runs."""
        return self._child is not None and self._child.poll() is None

    def stop(self) -> None:
        """Stop the node and every process it started, and remove its directory."""
        if self._child is not None:
            processes.stop(self._child, mark=self.mark, timeout_s=_STOP_TIMEOUT_S)
        self.directory.remove()
