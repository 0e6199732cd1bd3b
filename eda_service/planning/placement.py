"""The resources that the stages of a job request from Ray: workers, logical CPUs, GPUs, and their placement on nodes.

Logical CPUs are fractions, so that actors never wait for each other on a small machine. Imports neither Ray nor torch,
so that the API can import it.
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
"""Logical CPUs of a job's own process, held as long as it runs."""
MODEL_CPUS = 0.5
"""Logical CPUs of a process that runs a target; for vLLM, of each rank."""
TRAINER_CPUS = 0.5


class Strategy(StrEnum):
    """How a stage's workers are placed."""

    DRIVER = "driver"
    """The job's own process; no resources are requested."""
    TASK = "task"
    """One Ray task, on any node with enough resources."""
    POOL = "pool"
    """Actors one by one, each on any node with enough resources; a stage begins with the first."""
    PACK = "pack"
    """A placement group, created as a whole on as few nodes as possible."""
    SPREAD = "spread"
    """A placement group, created as a whole over as many nodes as possible."""


@dataclass(frozen=True)
class Placement:
    """The resources of one stage while it runs.

    Attributes:
        strategy: How the workers are placed.
        workers: Largest number of processes; one process prepares generation before.
        cpus: Logical CPUs of each process.
        gpus: GPUs of each process.
        threads: Threads that each process computes with on a CPU.
        nodes: Number of nodes of one process, with the same number of GPUs on each.
    """

    strategy: Strategy
    workers: int = 0
    cpus: float = 0.0
    gpus: int = 0
    threads: int = 0
    nodes: int = 1

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The placement group of a process over several nodes: one GPU per bundle, as vLLM puts a rank into each."""
        return [{"CPU": self.cpus / self.gpus, "GPU": 1.0} for _ in range(self.gpus)]

    @property
    def of_one_node(self) -> Capacity:
        """Resources of one process on one machine."""
        return Capacity(cpus=self.cpus / self.nodes, gpus=self.gpus // self.nodes)


DRIVER = Placement(Strategy.DRIVER)


def num_gpus(config: TrainConfig) -> int:
    """Return the number of GPUs of a process that holds a target by itself or trains a draft."""
    return 1 if config.use_gpu else 0


def engine_placement(
    strategy: Strategy, target: TargetSpec, kind: EngineKind | None, *, workers: int, threads: int, use_gpu: bool
) -> Placement:
    """Make the placement of processes of which each runs the target.

    Args:
        strategy: How the processes are placed.
        target: Target with the settings of vLLM.
        kind: Engine of the target; None: as the target says, or else the project's own engine.
        workers: Largest number of processes.
        threads: Threads of one rank, on a CPU.
        use_gpu: Whether the processes compute on GPUs.
    """
    ranks, nodes = 1, 1
    if (kind or target.engine) is EngineKind.VLLM:
        ranks, nodes = target.vllm.tensor_parallel_size, target.vllm.nodes if use_gpu else 1
    return Placement(strategy, workers, ranks * MODEL_CPUS, ranks if use_gpu else 0, ranks * threads, nodes)


def group_strategy(config: TrainConfig) -> Strategy:
    """Return how the training group is placed on nodes."""
    if config.placement == "auto":
        return Strategy.PACK if config.use_gpu else Strategy.SPREAD
    return Strategy(config.placement)


def placements(config: AdaptConfig, kind: EngineKind | None = None) -> dict[Stage, Placement]:
    """Make the placement of every stage of a job.

    Args:
        config: Config of the job.
        kind: Engine of its target; None: as the target says, or else the project's own engine.
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
    """Make the placement of stage validate, which reads config and headers, and uses a device if the own engine may
    run.
    """
    is_vllm = (kind or config.target.engine) is EngineKind.VLLM
    return Placement(
        Strategy.TASK, 1, MODEL_CPUS, 0 if is_vllm else num_gpus(config.train), config.selfgen.threads_per_actor
    )


def task_placement(config: TaskConfig) -> Placement:
    """Make the placement of the one process of an import or a measurement; imports read the target themselves."""
    kind = config.target.engine if isinstance(config, MeasureConfig) else EngineKind.EDA
    return engine_placement(
        Strategy.TASK, config.target, kind, workers=1, threads=config.threads, use_gpu=config.use_gpu
    )


def needed_at_once(config: Task, kind: EngineKind | None = None) -> Capacity:
    """Return the largest capacity that a job must hold at the same time; with less, a stage waits forever.

    A placement group starts as a whole, a pool with its first actor; the job's own process runs beside either. Imports
    and measurements have one task beside it.

    Args:
        config: Config of the job.
        kind: Engine of an adaptation's target; see `placements`.
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
    """Return the capacity that a job needs of a cluster: at the same time, and on one node.

    Args:
        config: Config of the job.
        kind: Engine of an adaptation's target; see `placements`.
    """
    stages = [task_placement(config)] if isinstance(config, TaskConfig) else placements(config, kind).values()
    # In every job one stage has the largest number of both: a process with more GPUs has a CPU share for each.
    parts = [placement.of_one_node for placement in stages]
    of_one_node = Capacity(cpus=max(part.cpus for part in parts), gpus=max(part.gpus for part in parts))
    return Need(needed_at_once(config, kind), of_one_node)
