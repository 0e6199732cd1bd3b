"""Resources for processes that run a target: CPUs and GPUs of one node, or a placement group over several.

On one node Ray gives a process its GPUs and vLLM starts a rank for each. An engine over several nodes has a placement
group of one GPU a bundle: its process is in the first bundle without a GPU of its own, and vLLM's ray executor, which
looks for the group that it is in, puts a rank into each. That executor has not been run here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from eda_service.planning.placement import Placement


class EngineRoom:
    """Requests resources from Ray for one process after the other.

    Args:
        placement: Placement of the stage.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._groups: list[PlacementGroup] = []

    def of_task(self) -> dict[str, Any]:
        """Return the options of a remote function."""
        placed = self._placement
        if placed.nodes == 1:
            return {"num_cpus": placed.cpus, "num_gpus": placed.gpus}
        return {**self._in_group(), **self._new_group()}

    def of_actors(self) -> dict[str, Any]:
        """Return the arguments of Ray Data's `map_batches`; each actor over several nodes has a placement group of its
        own.
        """
        if self._placement.nodes == 1:
            return self.of_task()
        return {**self._in_group(), "ray_remote_args_fn": self._new_group}

    def give_back(self) -> None:
        """Remove the placement groups, and with them the processes that still run there."""
        for group in self._groups:
            remove_placement_group(group)
        self._groups.clear()

    def _in_group(self) -> dict[str, Any]:
        return {"num_cpus": self._placement.bundles[0]["CPU"], "num_gpus": 0}

    def _new_group(self) -> dict[str, Any]:
        group = placement_group(self._placement.bundles, strategy="PACK")
        self._groups.append(group)
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            )
        }


@contextmanager
def room_for(placement: Placement) -> Iterator[EngineRoom]:
    """Reserve resources for a stage's engines and release them at the end of the block.

    Args:
        placement: Placement from `eda_service.planning.placement.placements`.
    """
    room = EngineRoom(placement)
    try:
        yield room
    finally:
        room.give_back()
