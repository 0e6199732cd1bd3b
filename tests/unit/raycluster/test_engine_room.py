"""What Ray is asked for, for processes that run a target; the groups themselves are recorded, not made."""

from __future__ import annotations

from typing import Any

import pytest

from eda_service.planning.placement import Placement, Strategy
from eda_service.raycluster import engine_room
from eda_service.raycluster.engine_room import room_for


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Groups that were made, and those that were removed."""
    seen: dict[str, list[Any]] = {"made": [], "removed": []}

    def make(bundles: list[dict[str, float]], strategy: str) -> object:
        seen["made"].append((strategy, bundles))
        return object()

    monkeypatch.setattr(engine_room, "placement_group", make)
    monkeypatch.setattr(engine_room, "remove_placement_group", seen["removed"].append)
    return seen


def test_on_one_node_ray_gives_a_process_its_gpus(groups: dict[str, list[Any]]) -> None:
    with room_for(Placement(Strategy.POOL, 2, 2.0, 4, 8)) as room:
        assert room.of_task() == room.of_actors() == {"num_cpus": 2.0, "num_gpus": 4}
    assert groups == {"made": [], "removed": []}


def test_over_two_nodes_each_engine_has_a_group_that_is_given_back(groups: dict[str, list[Any]]) -> None:
    with room_for(Placement(Strategy.POOL, 2, 8.0, 16, 32, nodes=2)) as room:
        task = room.of_task()
        assert (task["num_cpus"], task["num_gpus"]) == (0.5, 0)  # vLLM's ranks take the GPUs
        placed = task["scheduling_strategy"]
        assert placed.placement_group_bundle_index == 0
        assert placed.placement_group_capture_child_tasks is True
        actors = room.of_actors()
        assert actors["num_gpus"] == 0
        strategies = [actors["ray_remote_args_fn"]()["scheduling_strategy"] for _ in range(2)]
        assert len({id(each.placement_group) for each in strategies}) == 2
    assert groups["made"] == [("PACK", [{"CPU": 0.5, "GPU": 1.0}] * 16)] * 3
    assert len(groups["removed"]) == 3


def test_a_stage_that_fails_gives_its_groups_back(groups: dict[str, list[Any]]) -> None:
    def fail() -> None:
        with room_for(Placement(Strategy.TASK, 1, 8.0, 16, 32, nodes=2)) as room:
            room.of_task()
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fail()
    assert len(groups["removed"]) == 1
