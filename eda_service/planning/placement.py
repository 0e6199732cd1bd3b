"""What the stages of a job ask Ray for: workers, logical CPUs, GPUs, and how they lie over nodes.

Logical CPUs are fractions, so that actors never wait for each other on a small machine. Imports neither Ray nor torch,
for the API's sake.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from eda_service.capacity import Capacity, Need
from eda_service.config.job import AdaptConfig, EngineKind, TargetSpec, TrainConfig
from eda_service.config.tasks import MeasureConfig, Task, TaskConfig
from eda_service.planning.estimate import num_samples
from eda_service.records import Stage

DRIVER_CPUS = 0.1
"""Of a job's own process, held as long as it runs."""
MODEL_CPUS = 0.5
"""Of a process that runs a target; of vLLM's, each rank."""
TRAINER_CPUS = 0.5


class Strategy(StrEnum):
    """How a stage's workers come to their places."""

    DRIVER = "driver"
    """The job's own process; nothing is asked for."""
    TASK = "task"
    """One Ray task, wherever there is room."""
    POOL = "pool"
    """Actors one by one, each wherever there is room; a stage begins with the first."""
    PACK = "pack"
    """A placement group, all at once and on as few nodes as hold it."""
    SPREAD = "spread"
    """A placement group, all at once and over as many nodes as there are."""


@dataclass(frozen=True)
class Placement:
    """What one stage holds while it runs.

    Attributes:
        strategy: How it comes there.
        workers: Processes at most; generation is prepared by one before.
        cpus: Logical ones of each.
        gpus: Of each.
        threads: That each computes with on a CPU.
        nodes: That one of them takes, with the same number of GPUs on each.
    """

    strategy: Strategy
    workers: int = 0
    cpus: float = 0.0
    gpus: int = 0
    threads: int = 0
    nodes: int = 1

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Of a process that takes several nodes, its placement group: one GPU each, as vLLM puts a rank into each."""
        return [{"CPU": self.cpus / self.gpus, "GPU": 1.0} for _ in range(self.gpus)]

    @property
    def of_one_node(self) -> Capacity:
        """What one process takes of one machine."""
        return Capacity(cpus=self.cpus / self.nodes, gpus=self.gpus // self.nodes)


DRIVER = Placement(Strategy.DRIVER)


def num_gpus(config: TrainConfig) -> int:
    """GPUs of a process that holds a target by itself or trains a draft."""
    return 1 if config.use_gpu else 0


def engine_placement(
    strategy: Strategy, target: TargetSpec, kind: EngineKind | None, *, workers: int, threads: int, use_gpu: bool
) -> Placement:
    """What processes ask for of which each runs the target.

    Args:
        strategy: How they come to their places.
        target: With the settings of vLLM.
        kind: Who runs it; None: as the target says, and the project's own engine where it does not.
        workers: How many there are at most.
        threads: Of one rank, on a CPU.
        use_gpu: Whether they compute on GPUs.
    """
    ranks, nodes = 1, 1
    if (kind or target.engine) is EngineKind.VLLM:
        ranks, nodes = target.vllm.tensor_parallel_size, target.vllm.nodes if use_gpu else 1
    return Placement(strategy, workers, ranks * MODEL_CPUS, ranks if use_gpu else 0, ranks * threads, nodes)


def group_strategy(config: TrainConfig) -> Strategy:
    """How the training group is laid over nodes."""
    if config.placement == "auto":
        return Strategy.PACK if config.use_gpu else Strategy.SPREAD
    return Strategy(config.placement)


def placements(config: AdaptConfig, kind: EngineKind | None = None) -> dict[Stage, Placement]:
    """What every stage of a job asks for.

    Args:
        config: The job.
        kind: Who runs its target; None: as the target says, and the project's own engine where it does not.
    """
    selfgen, train, threads = config.selfgen, config.train, config.evaluation.threads
    actors = min(selfgen.num_actors, math.ceil(num_samples(config) / selfgen.shard_size))

    def engines(strategy: Strategy, workers: int, threads: int) -> Placement:
        return engine_placement(strategy, config.target, kind, workers=workers, threads=threads, use_gpu=train.use_gpu)

    return {
        Stage.VALIDATE: _look(config, kind),
        Stage.GENERATE: engines(Strategy.POOL, actors, selfgen.threads_per_actor),
        Stage.SELECT: DRIVER,
        Stage.TRAIN: Placement(
            group_strategy(train), train.num_workers, TRAINER_CPUS, num_gpus(train), train.threads_per_worker
        ),
        Stage.EVALUATE: engines(Strategy.TASK, 1, threads),
        Stage.PUBLISH: DRIVER,
    }


def _look(config: AdaptConfig, kind: EngineKind | None) -> Placement:
    """Config and headers are read; the device is tried where the project's own engine may run the target."""
    is_vllm = (kind or config.target.engine) is EngineKind.VLLM
    return Placement(
        Strategy.TASK, 1, MODEL_CPUS, 0 if is_vllm else num_gpus(config.train), config.selfgen.threads_per_actor
    )


def task_placement(config: TaskConfig) -> Placement:
    """What the one process of an import or a measurement asks for; imports read the target themselves."""
    kind = config.target.engine if isinstance(config, MeasureConfig) else EngineKind.EDA
    return engine_placement(
        Strategy.TASK, config.target, kind, workers=1, threads=config.threads, use_gpu=config.use_gpu
    )


def needed_at_once(config: Task, kind: EngineKind | None = None) -> Capacity:
    """The most that a job holds at a time before it can go on: below it, a stage waits for ever.

    A placement group starts whole, a pool with its first actor; the job's own process is beside either. Imports and
    measurements have one task beside it.

    Args:
        config: The job.
        kind: Who runs an adaptation's target; None: as `placements`.
    """
    if isinstance(config, TaskConfig):
        placed = task_placement(config)
        return Capacity(cpus=DRIVER_CPUS + placed.cpus, gpus=placed.gpus)
    cpus, gpus = 0.0, 0
    for placement in placements(config, kind).values():
        is_group = placement.strategy in {Strategy.PACK, Strategy.SPREAD}
        workers = placement.workers if is_group else min(placement.workers, 1)
        cpus, gpus = max(cpus, workers * placement.cpus), max(gpus, workers * placement.gpus)
    return Capacity(cpus=DRIVER_CPUS + cpus, gpus=gpus)


def need_of(config: Task, kind: EngineKind | None = None) -> Need:
    """What a job asks a cluster for: at a time, and of one node.

    Args:
        config: The job.
        kind: As `needed_at_once`.
    """
    stages = [task_placement(config)] if isinstance(config, TaskConfig) else placements(config, kind).values()
    # Of every job one stage has most of both: a process with more GPUs has a CPU's share for each.
    parts = [placement.of_one_node for placement in stages]
    of_one_node = Capacity(cpus=max(part.cpus for part in parts), gpus=max(part.gpus for part in parts))
    return Need(needed_at_once(config, kind), of_one_node)
