"""A replica whose own server listens on its node's address alone.

Ray Serve gives each replica a gRPC server for calls between deployments, on every interface. It asks for the cluster's
token, and nobody calls it here; on a single node it has no reason to be seen at all.
"""

from __future__ import annotations

from typing import Any

import ray
from ray._common.network_utils import build_address
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica


def bind_replica() -> None:
    """Called by a deployment's constructor, after which Serve starts the server."""
    vars(replica)["add_port_to_grpc_server"] = _add_bound_port


def _add_bound_port(server: Any, address: str) -> int:
    port = address.rpartition(":")[2]
    return int(add_port_to_grpc_server(server, build_address(ray.util.get_node_ip_address(), port)))
