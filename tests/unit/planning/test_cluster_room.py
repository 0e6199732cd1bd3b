"""Whether a cluster holds a job: GPUs at a time, of one node, and the memory of each."""

from __future__ import annotations

from typing import Any

import pytest

from eda_service.capacity import Capacity, Machines
from eda_service.config.job import AdaptConfig
from eda_service.config.overrides import merge
from eda_service.config.presets import preset
from eda_service.planning.constants import DEVICES
from eda_service.planning.plan import make_plan
from eda_service.planning.room import cluster_shortfalls, gpu_of
from eda_service.planning.shapes import SHAPES
from eda_service.planning.workload import Lengths


def job(**changes: Any) -> AdaptConfig:
    return AdaptConfig.model_validate(merge(merge({"target": {"model": "70b"}}, preset("70b")), changes))


def nodes(count: int, gpus: int, *kinds: str) -> Machines:
    return Machines(Capacity(cpus=64.0 * count, gpus=count * gpus), (Capacity(64.0, gpus),), frozenset(kinds))


def said(config: AdaptConfig, machines: Machines) -> list[tuple[str, str | None]]:
    return [(error.message, error.param) for error in cluster_shortfalls(config, machines, None)]


def test_one_node_of_eight_holds_two_engines_of_four() -> None:
    assert said(job(), nodes(1, 8)) == []


def test_eight_nodes_of_one_hold_no_engine_of_four() -> None:
    ((message, param),) = said(job(), nodes(8, 1))
    assert message.startswith("vLLM asks for 4 GPUs of one node and no node of the cluster has more than 1; set ")
    assert "target.vllm.gpus_per_node to 1 for an engine over several nodes" in message
    assert "`force`" in message
    assert param == "target.vllm.tensor_parallel_size"


def test_ranks_on_cpus_have_to_be_on_one_node_too() -> None:
    ranks = job(target={"vllm": {"tensor_parallel_size": 8}}, train={"use_gpu": False})  # half a CPU each
    small = Machines(Capacity(cpus=32.0, gpus=0), (Capacity(2.0, 0),))
    ((message, param),) = said(ranks, small)
    assert message.startswith(
        "the job has a process that asks for 4 CPUs and 0 GPUs of one node, and no node has more than 2 CPUs and 0 GPUs"
    )
    assert param == "target.vllm.tensor_parallel_size"
    assert said(ranks, Machines(Capacity(cpus=32.0, gpus=0), (Capacity(4.0, 0),))) == []


def test_ranks_on_cpus_that_the_cluster_lacks_in_all_are_said_once_with_what_to_lower() -> None:
    ranks = job(target={"vllm": {"tensor_parallel_size": 8}}, train={"use_gpu": False, "num_workers": 1})
    (in_all, of_one_node) = said(ranks, Machines(Capacity(cpus=2.0, gpus=0), (Capacity(2.0, 0),)))
    assert "asks for 4.1 CPUs and 0 GPUs at a time" in in_all[0]
    assert "lower target.vllm.tensor_parallel_size" in in_all[0]
    assert of_one_node[0].startswith("the job has a process that asks for 4 CPUs and 0 GPUs of one node")


def test_an_engine_over_two_nodes_needs_all_gpus_of_each() -> None:
    over = job(target={"vllm": {"tensor_parallel_size": 8, "gpus_per_node": 4}})
    assert said(over, nodes(2, 4)) == []
    assert said(over, nodes(4, 2))[0][0].startswith("vLLM asks for 4 GPUs of one node and no node")


@pytest.mark.parametrize(
    ("changes", "machines", "advice", "param"),
    [
        ({}, nodes(2, 0), "set train.use_gpu to false", "train.use_gpu"),
        ({}, nodes(1, 4), "lower train.num_workers", "train.num_workers"),
        ({"train": {"num_workers": 1}}, nodes(1, 2), "lower target.vllm.tensor_parallel_size", None),
    ],
)
def test_what_the_cluster_lacks_in_all_is_said_with_what_to_lower(
    changes: dict[str, Any], machines: Machines, advice: str, param: str | None
) -> None:
    message, field = said(job(**changes), machines)[0]
    assert advice in message
    assert field == (param or "target.vllm.tensor_parallel_size")


def test_the_memory_of_the_gpus_that_are_there() -> None:
    given = job(target={"vllm": {"tensor_parallel_size": 4}})
    on_l40s = make_plan(given, SHAPES["70b"], DEVICES["l40s"], Lengths(200.0, 160.0))
    found = cluster_shortfalls(given, nodes(1, 8, "L40S"), on_l40s)
    # 35.3 GB of weights on each, 7 GB of keys and values and 3 of vLLM's own, of 0.9 x 48
    assert [error.message[:42] for error in found] == ["generate needs 35.3 GB of weights, 7.0 GB "]
    assert "set target.vllm.tensor_parallel_size to 8, or `force`" in found[0].message


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        ((), None),
        (("H100",), "h100"),
        (("H200", "L40S"), "l40s"),  # Ray may place an engine on either
        (("H100", "A100"), None),  # of 40 or 80 GB
        (("T4",), None),
    ],
)
def test_the_gpu_of_a_cluster_is_the_smallest_or_not_known(kinds: tuple[str, ...], name: str | None) -> None:
    assert gpu_of(nodes(1, 8, *kinds)) == name
