"""A Serve replica whose own server listens only on its node's address.

Ray Serve gives each replica a gRPC server for calls between deployments, on every interface. It requires the cluster's
token, and this service does not use it; on a single node there is no reason to expose it.
"""

from __future__ import annotations

from typing import Any

import ray
from ray._common.network_utils import build_address
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica


def bind_replica() -> None:
    """Bind the replica's server; a deployment's constructor calls this before Serve starts the server."""
    vars(replica)["add_port_to_grpc_server"] = _add_bound_port


def _add_bound_port(server: Any, address: str) -> int:
    port = address.rpartition(":")[2]
    return int(add_port_to_grpc_server(server, build_address(ray.util.get_node_ip_address(), port)))
