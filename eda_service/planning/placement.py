"""What the stages of a job ask Ray for: workers, logical CPUs, GPUs, and how they lie over nodes.

Logical CPUs are fractions, so that actors never wait for each other on a small machine. Imports neither Ray nor torch,
for the API's sake.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from eda_service.capacity import Capacity
from eda_service.config.job import AdaptConfig, TrainConfig
from eda_service.config.tasks import Task, TaskConfig
from eda_service.planning.estimate import num_samples
from eda_service.records import Stage

DRIVER_CPUS = 0.1
"""Of a job's own process, held as long as it runs."""
MODEL_CPUS = 0.5
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
    """

    strategy: Strategy
    workers: int = 0
    cpus: float = 0.0
    gpus: int = 0
    threads: int = 0


DRIVER = Placement(Strategy.DRIVER)


def num_gpus(config: TrainConfig) -> int:
    """GPUs of a process that holds a target or trains a draft."""
    return 1 if config.use_gpu else 0


def group_strategy(config: TrainConfig) -> Strategy:
    """How the training group is laid over nodes."""
    if config.placement == "auto":
        return Strategy.PACK if config.use_gpu else Strategy.SPREAD
    return Strategy(config.placement)


def placements(config: AdaptConfig) -> dict[Stage, Placement]:
    """What every stage of a job asks for."""
    selfgen, train, gpus = config.selfgen, config.train, num_gpus(config.train)
    actors = min(selfgen.num_actors, math.ceil(num_samples(config) / selfgen.shard_size))
    return {
        Stage.VALIDATE: Placement(Strategy.TASK, 1, MODEL_CPUS, gpus, selfgen.threads_per_actor),
        Stage.GENERATE: Placement(Strategy.POOL, actors, MODEL_CPUS, gpus, selfgen.threads_per_actor),
        Stage.SELECT: DRIVER,
        Stage.TRAIN: Placement(group_strategy(train), train.num_workers, TRAINER_CPUS, gpus, train.threads_per_worker),
        Stage.EVALUATE: Placement(Strategy.TASK, 1, MODEL_CPUS, gpus, config.evaluation.threads),
        Stage.PUBLISH: DRIVER,
    }


def needed_at_once(config: Task) -> Capacity:
    """The most that a job holds at a time before it can go on: below it, a stage waits for ever.

    A placement group starts whole, a pool with its first actor; the job's own process is beside either. Imports and
    measurements have one task beside it.
    """
    if isinstance(config, TaskConfig):
        return Capacity(cpus=DRIVER_CPUS + MODEL_CPUS, gpus=1 if config.use_gpu else 0)
    cpus, gpus = 0.0, 0
    for placement in placements(config).values():
        is_group = placement.strategy in {Strategy.PACK, Strategy.SPREAD}
        workers = placement.workers if is_group else min(placement.workers, 1)
        cpus, gpus = max(cpus, workers * placement.cpus), max(gpus, workers * placement.gpus)
    return Capacity(cpus=DRIVER_CPUS + cpus, gpus=gpus)
