"""What a node is started with: addresses that are its own, and a network interface that other nodes reach."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from eda_service.errors import InputError
from eda_service.raycluster.head import RayHead
from eda_service.raycluster.node import JoinedNode, interface_of, node_env, own_address_towards, start_command


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("RAY_worker_niceness", "0"),
        ("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0"),
        ("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0"),
        ("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5"),
    ],
)
def test_what_ray_is_told_can_be_told_otherwise(monkeypatch: pytest.MonkeyPatch, name: str, ours: str) -> None:
    monkeypatch.delenv(name, raising=False)
    assert node_env("127.0.0.1")[name] == ours
    monkeypatch.setenv(name, "10")
    assert node_env("127.0.0.1")[name] == "10"


def test_an_address_has_the_interface_that_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    name = interface_of("127.0.0.1")
    assert name in [each for _, each in socket.if_nameindex()]
    assert node_env("127.0.0.1")["GLOO_SOCKET_IFNAME"] == name
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert node_env("127.0.0.1")["GLOO_SOCKET_IFNAME"] == "ib0"


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InputError, match=r"no address '192\.0\.2\.77'; it has .*127\.0\.0\.1"):
        interface_of("192.0.2.77")


def test_the_own_address_is_the_one_packets_leave_from() -> None:
    assert own_address_towards("127.0.0.1:6379") == "127.0.0.1"
    for wrong in ("127.0.0.1", "nowhere:port", ":6379"):
        with pytest.raises(InputError, match="is not host:port"):
            own_address_towards(wrong)


def test_ports_of_a_node_differ() -> None:
    command = start_command({"address": "10.0.0.1:6379"}, taken=[1])
    ports = [option.rpartition("=")[2] for option in command if "-port=" in option]
    assert len(ports) == len(set(ports))
    assert "--address=10.0.0.1:6379" in command


def test_a_home_without_a_token_is_no_cluster(tmp_path: Path) -> None:
    node = JoinedNode(tmp_path, tmp_path / "log", head_address="127.0.0.1:1", node_ip="127.0.0.1", num_cpus=1)
    try:
        with pytest.raises(InputError, match="holds no cluster's token"):
            node.start()
    finally:
        node.stop()
    assert not node.directory.path.exists()


def test_a_head_says_where_to_join(tmp_path: Path) -> None:
    alone, open_ = (
        RayHead(tmp_path, tmp_path / "log"),
        RayHead(tmp_path, tmp_path / "log", node_ip="10.0.0.1", port=6379),
    )
    try:
        assert alone.is_alone
        assert (open_.address, open_.is_alone) == ("10.0.0.1:6379", False)
        assert open_.dashboard_url.startswith("http://127.0.0.1:")
    finally:
        alone.stop()
        open_.stop()
