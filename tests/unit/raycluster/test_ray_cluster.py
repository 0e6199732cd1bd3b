"""The totals of a cluster, as the dashboard's state API tells them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted_dashboard import node, node_list
from scripted_service import Answer, ScriptedService, scripted_service

from eda_service.capacity import Capacity, Machines
from eda_service.raycluster.nodes import RayCluster

NODES = "/api/v0/nodes"


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    with scripted_service() as opened:
        yield opened


def test_it_is_the_sum_of_the_nodes_that_are_alive(service: ScriptedService) -> None:
    living = [node({"CPU": 8.0, "memory": 1e9}), node({"CPU": 4.0, "GPU": 2.0}), node({"GPU": 1.0})]
    service.on("GET", NODES, node_list(*living, node({"CPU": 64.0, "GPU": 8.0}, state="DEAD")))
    cluster = RayCluster(service.url, {"authorization": "Bearer x"})
    assert cluster.capacity() == Capacity(cpus=12.0, gpus=3)
    (asked,) = service.seen("GET", NODES)
    assert asked.headers["authorization"] == "Bearer x"
    assert int(asked.query["limit"]) >= 1000  # the state API lists a hundred unless it is told


def test_it_says_how_many_gpus_one_node_has_and_what_they_are(service: ScriptedService) -> None:
    large = node({"CPU": 8.0, "GPU": 8.0, "accelerator_type:H100": 1.0})
    small = node({"CPU": 8.0, "GPU": 2.0, "accelerator_type:L40S": 1.0})
    service.on("GET", NODES, node_list(node({"CPU": 4.0}), large, small))
    total = Capacity(cpus=20.0, gpus=10)
    most = (Capacity(cpus=8.0, gpus=8),)
    assert RayCluster(service.url).machines() == Machines(total, most, frozenset({"H100", "L40S"}))
    service.on("GET", NODES, node_list(large, node({"CPU": 12.0, "GPU": 2.0})))
    either = (*most, Capacity(cpus=12.0, gpus=2))  # of the second kind no GPU is known, and it has more CPUs
    found = RayCluster(service.url).machines()
    assert found == Machines(total, either, frozenset())
    assert found is not None
    assert found.node_gpus == 8


def test_it_is_asked_again_after_some_seconds(service: ScriptedService) -> None:
    now = [0.0]
    service.on("GET", NODES, node_list(node({"CPU": 1.0})), Answer(status=503), node_list(node({"CPU": 2.0})))
    cluster = RayCluster(service.url, clock=lambda: now[0])
    seen = []
    for at in (0.0, 9.0, 10.0, 15.0, 20.0):
        now[0] = at
        seen.append(cluster.capacity())
    assert seen == [Capacity(1.0, 0), Capacity(1.0, 0), None, None, Capacity(2.0, 0)]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=401, json={"result": False}),
        Answer(body=b"<html>"),
        Answer([]),
        Answer({"data": {"result": {"result": [{"state": "ALIVE"}]}}}),
        node_list(),
        node_list(node({"memory": 1e9})),  # a head that offers nothing, before a node has joined it
        Answer(drop=True),
    ],
)
def test_what_is_no_answer_is_an_unknown_cluster(service: ScriptedService, answer: Answer) -> None:
    service.on("GET", NODES, answer)
    assert RayCluster(service.url).capacity() is None


def test_a_dashboard_that_is_away_is_an_unknown_cluster() -> None:
    assert RayCluster("http://127.0.0.1:9").capacity() is None


def test_capacity_in_words() -> None:
    assert str(Capacity(cpus=1.0, gpus=1)) == "1 CPU and 1 GPU"
    assert str(Capacity(cpus=4.1, gpus=0)) == "4.1 CPUs and 0 GPUs"
