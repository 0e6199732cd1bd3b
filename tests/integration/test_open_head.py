"""A head that other nodes can join: what of it listens where they can reach it, and that all of it asks for the token.

On a single node nothing does; that is in test_private_service.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from running import listeners_of, off_loopback
from waiting import TEST_TIMEOUT_S, wait_for, work_of

from eda_service.raycluster.head import RayHead
from eda_service.raycluster.node import own_address_towards
from eda_service.raycluster.token import auth_headers, token_path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]

METHODS = {
    "GCS": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "raylet": "/ray.rpc.NodeManagerService/GetNodeStats",
    "object manager": "/ray.rpc.ObjectManagerService/Pull",
    "worker": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "agent": "/ray.rpc.ReporterService/ReportOCMetrics",
    "Ray Client": "/ray.rpc.RayletDriver/ClusterInfo",
}
"""A method of each gRPC server, which answers with data to who has the token."""
PATHS = ("/", "/metrics", "/api/version", "/api/jobs/", "/get_or_create_runtime_env")
PROCESSES = {
    "gcs_server": {"GCS"},
    "raylet/raylet": {"raylet", "object manager"},
    "ray.util.client.server": {"Ray Client"},
    "ray::DashboardAgent": {"agent", "HTTP"},
    "ray::RuntimeEnvAgent": {"HTTP"},
    "ray-dashboard-ServeHead": {"worker"},
    "ray::IDLE": {"worker"},
}
"""What listens off loopback, and as what: the table of the threat model."""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """Started at this machine's own address."""
    home = tmp_path_factory.mktemp("home")
    made = RayHead(home, home / "head.log", node_ip=own_address_towards("192.0.2.1:1"))
    try:
        made.start()
        wait_for(made.is_ready, what="the head", progress=lambda: work_of(made.pid or 0))
        # What the API asks every second: the dashboard becomes a driver for it, and workers are started for drivers.
        url, headers = f"{made.dashboard_url}/api/serve/applications/", auth_headers(token_path(home))
        httpx.get(url, headers=headers, timeout=120, trust_env=False)
        yield made
    finally:
        made.stop()


def ports_of(head: RayHead) -> dict[int, str]:
    """Port to the process that listens there, off loopback."""
    family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    names = {each.pid: " ".join(each.cmdline()) for each in family if each.is_running()}
    open_ = {address for address, _ in off_loopback(listeners_of(family[0]))}
    return {
        each.laddr.port: names[each.pid]
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
        and each.pid in names
        and str(each.laddr.ip).removeprefix("::ffff:") in open_
    }


def asks_for_a_token(address: str) -> set[str]:
    """What this server is, by what it refuses without a token; anything that it answers fails."""
    refused: set[str] = set()
    try:
        for path in PATHS:
            answer = httpx.get(f"http://{address}{path}", timeout=10, trust_env=False)
            assert answer.status_code == 401, (address, path, answer.text[:200])
        return {"HTTP"}
    except httpx.RemoteProtocolError:
        pass  # it speaks gRPC
    with grpc.insecure_channel(address) as channel:
        for kind, method in METHODS.items():
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(b"", timeout=20)
            code = caught.value.code()
            assert code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}, (address, method, code)
            if code is grpc.StatusCode.UNAUTHENTICATED:
                refused.add(kind)
    return refused


def test_everything_that_others_can_reach_asks_for_the_token(head: RayHead) -> None:
    def there() -> set[str]:
        return {name for name in PROCESSES if any(name in command for command in ports_of(head).values())}

    wait_for(lambda: there() == set(PROCESSES), what="every process of a head", progress=there)
    address = head.address.rpartition(":")[0]
    found: dict[str, set[str]] = {}
    for port, command in ports_of(head).items():
        (name,) = [each for each in PROCESSES if each in command]  # nothing else listens
        kinds = asks_for_a_token(f"{address}:{port}")
        assert kinds, (port, command)
        found.setdefault(name, set()).update(kinds)
    assert found == PROCESSES
