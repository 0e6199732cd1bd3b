"""What each stage asks Ray for."""

from __future__ import annotations

from typing import Any

import pytest

from eda_service.capacity import Capacity
from eda_service.config.job import AdaptConfig, TrainConfig
from eda_service.planning.placement import Placement, Strategy, group_strategy, needed_at_once, placements
from eda_service.records import STAGES, Stage


def test_workers_are_spread_on_cpus_and_packed_on_gpus() -> None:
    assert group_strategy(TrainConfig()).name == "SPREAD"
    assert group_strategy(TrainConfig(use_gpu=True)).name == "PACK"
    assert group_strategy(TrainConfig(placement="pack")).name == "PACK"
    assert group_strategy(TrainConfig(use_gpu=True, placement="spread")).name == "SPREAD"


@pytest.mark.parametrize("use_gpu", [False, True])
def test_every_stage_with_a_target_or_a_draft_has_its_gpu(use_gpu: bool) -> None:
    config = AdaptConfig.model_validate(
        {
            "target": {"model": "m"},
            "selfgen": {"num_actors": 3, "threads_per_actor": 4},
            "train": {"num_workers": 5, "threads_per_worker": 6, "use_gpu": use_gpu},
            "evaluation": {"threads": 7},
        }
    )
    found = placements(config)
    assert list(found) == list(STAGES)
    gpus, group = int(use_gpu), Strategy.PACK if use_gpu else Strategy.SPREAD
    assert found[Stage.GENERATE] == Placement(Strategy.POOL, 3, 0.5, gpus, 4)
    assert found[Stage.TRAIN] == Placement(group, 5, 0.5, gpus, 6)
    assert found[Stage.EVALUATE] == Placement(Strategy.TASK, 1, 0.5, gpus, 7)
    assert found[Stage.SELECT] == found[Stage.PUBLISH] == Placement(Strategy.DRIVER)


def test_there_are_no_more_actors_than_shards() -> None:
    config = AdaptConfig.model_validate(
        {"target": {"model": "m"}, "dataset": {"num_prompts": 116}, "selfgen": {"num_actors": 9, "shard_size": 50}}
    )
    assert placements(config)[Stage.GENERATE].workers == 2  # 100 prompts are not held out


@pytest.mark.parametrize(
    ("train", "selfgen", "need"),
    [
        ({"num_workers": 1}, {"num_actors": 64}, Capacity(cpus=0.6, gpus=0)),  # a pool begins with its first actor
        ({"num_workers": 30}, {}, Capacity(cpus=15.1, gpus=0)),
        ({"num_workers": 8, "use_gpu": True}, {}, Capacity(cpus=4.1, gpus=8)),
        ({"num_workers": 1, "use_gpu": True}, {"num_actors": 8}, Capacity(cpus=0.6, gpus=1)),
    ],
)
def test_what_a_job_needs_at_once_is_its_largest_group_and_its_own_process(
    train: dict[str, Any], selfgen: dict[str, Any], need: Capacity
) -> None:
    config = AdaptConfig.model_validate({"target": {"model": "m"}, "train": train, "selfgen": selfgen})
    found = needed_at_once(config)
    assert (found.cpus, found.gpus) == (pytest.approx(need.cpus), need.gpus)
