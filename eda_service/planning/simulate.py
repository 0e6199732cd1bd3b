"""Simulation of many jobs a day on a shared pool of devices: discrete events, with SimPy.

Jobs arrive at random (Poisson) and wait, in order, until fewer than `max_running` run. A job runs its stages one after
the other; each stage takes all its devices at once, in the order of asking (a large request is not overtaken), and
holds them for its planned time. Hidden states are on disk from self-generation until training ends: a job that finds
too little disk space waits before it generates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from eda_service.errors import InputError
from eda_service.planning.plan import Plan
from eda_service.planning.stage_plan import StagePlan

DAY_S = 86_400.0
_WARM_FRACTION = 0.1
_HOLDS_DISK_FROM, _HOLDS_DISK_TO = "generate", "train"


@dataclass(frozen=True)
class SimulatedLoad:
    """The settings of a simulation.

    Attributes:
        variants_per_day: Mean number of jobs that arrive in a day.
        num_devices: Number of devices in the pool.
        max_running: Largest number of jobs at the same time (the service's EDA_MAX_RUNNING).
        disk_bytes: Disk space for hidden states; None: unlimited.
        days: Number of simulated days; the first tenth is left out of the results.
        seed: Seed of the arrivals.
    """

    variants_per_day: float
    num_devices: int
    max_running: int = 1000
    disk_bytes: float | None = None
    days: float = 30.0
    seed: int = 0


@dataclass(frozen=True)
class StageLoad:
    """The load of one stage, over all jobs.

    Attributes:
        stage: Name of the stage.
        mean_wait_s: Mean seconds of waiting for devices.
        share_of_busy: Share of all used device-seconds.
    """

    stage: str
    mean_wait_s: float
    share_of_busy: float


@dataclass(frozen=True)
class SimulationOutcome:
    """The results of a simulation.

    Attributes:
        num_jobs: Number of jobs that ended after the warm-up.
        utilisation: Used device-seconds divided by those available.
        wait_p50_s: Median of a job's total waiting time.
        wait_p99_s: 99th percentile of a job's total waiting time.
        total_p50_s: Median time from arrival to end.
        total_p99_s: 99th percentile of the time from arrival to end.
        mean_queue_wait_s: Mean seconds until the job may run.
        mean_disk_wait_s: Mean seconds of waiting for disk space.
        bottleneck: Longest stage if jobs wait less than it takes; otherwise the resource that they wait for: that of
            devices, disk and max_running that admits the fewest jobs per day.
        most_per_day: Largest number of jobs per day that devices, disk and max_running admit.
        saturated: Whether at least that many jobs arrive, so that waiting times grow with the simulated days.
        stages: Load of each stage.
    """

    num_jobs: int
    utilisation: float
    wait_p50_s: float
    wait_p99_s: float
    total_p50_s: float
    total_p99_s: float
    mean_queue_wait_s: float
    mean_disk_wait_s: float
    bottleneck: str
    most_per_day: float
    saturated: bool
    stages: tuple[StageLoad, ...]


@dataclass
class _Job:
    arrived_s: float
    ended_s: float = 0.0
    queue_wait_s: float = 0.0
    disk_wait_s: float = 0.0
    waits_s: dict[str, float] = field(default_factory=dict)

    @property
    def wait_s(self) -> float:
        return self.queue_wait_s + self.disk_wait_s + sum(self.waits_s.values())


def simulate(plan: Plan, load: SimulatedLoad) -> SimulationOutcome:
    """Run the simulation.

    Raises:
        InputError: A stage needs more devices than there are, or a job more disk space.
    """
    _check(plan, load)
    pool = _Pool.of(simpy.Environment(), load)
    jobs: list[_Job] = []
    pool.environment.process(_arrivals(pool, plan, load, jobs))
    pool.environment.run(until=load.days * DAY_S)
    return _outcome(plan, load, jobs)


@dataclass(frozen=True)
class _Pool:
    environment: simpy.Environment
    slots: simpy.Resource
    devices: simpy.Container
    disk: simpy.Container | None

    @classmethod
    def of(cls, environment: simpy.Environment, load: SimulatedLoad) -> _Pool:
        disk = None
        if load.disk_bytes is not None:
            disk = simpy.Container(environment, capacity=load.disk_bytes, init=load.disk_bytes)
        devices = simpy.Container(environment, capacity=load.num_devices, init=load.num_devices)
        return cls(environment, simpy.Resource(environment, load.max_running), devices, disk)


def _check(plan: Plan, load: SimulatedLoad) -> None:
    most = max(plan.stages, key=lambda stage: stage.devices)
    if most.devices > load.num_devices:
        raise InputError(
            f"{most.stage} takes {most.devices} devices and the pool has {load.num_devices}; lower --gpus-per-job",
            param="gpus",
        )
    need = _held_bytes(plan)
    if load.disk_bytes is not None and need > load.disk_bytes:
        raise InputError(
            f"one job keeps {need / 1e9:.0f} GB of hidden states and there are {load.disk_bytes / 1e9:.0f} GB; raise "
            "--disk-tb",
            param="disk_tb",
        )


def _held_bytes(plan: Plan) -> float:
    return plan.stage("generate").disk_bytes + plan.stage("select").disk_bytes


def _arrivals(pool: _Pool, plan: Plan, load: SimulatedLoad, jobs: list[_Job]) -> Generator[Any, Any, None]:
    choose = random.Random(load.seed)
    while True:
        yield pool.environment.timeout(choose.expovariate(load.variants_per_day / DAY_S))
        pool.environment.process(_run(pool, plan, jobs))


def _run(pool: _Pool, plan: Plan, jobs: list[_Job]) -> Generator[Any, Any, None]:
    job, held = _Job(pool.environment.now), _held_bytes(plan)
    with pool.slots.request() as slot:
        yield slot
        job.queue_wait_s = pool.environment.now - job.arrived_s
        for stage in plan.stages:
            asked = pool.environment.now
            if pool.disk is not None and stage.stage == _HOLDS_DISK_FROM:
                yield pool.disk.get(held)
                job.disk_wait_s = pool.environment.now - asked
                asked = pool.environment.now
            if stage.devices:
                yield pool.devices.get(stage.devices)
            job.waits_s[stage.stage] = pool.environment.now - asked
            yield pool.environment.timeout(stage.seconds)
            if stage.devices:
                yield pool.devices.put(stage.devices)
            if pool.disk is not None and stage.stage == _HOLDS_DISK_TO:
                yield pool.disk.put(held)
    job.ended_s = pool.environment.now
    jobs.append(job)


def _outcome(plan: Plan, load: SimulatedLoad, jobs: Sequence[_Job]) -> SimulationOutcome:
    warm_s = _WARM_FRACTION * load.days * DAY_S
    counted = [job for job in jobs if job.ended_s >= warm_s]
    if not counted:
        raise InputError(f"no job ended in {load.days:g} simulated days; raise --days", param="days")
    per_job = sum(stage.devices * stage.seconds for stage in plan.stages)
    waits, totals = [job.wait_s for job in counted], [job.ended_s - job.arrived_s for job in counted]
    stages = tuple(_stage_load(stage, counted, per_job) for stage in plan.stages)
    queue_wait_s = sum(job.queue_wait_s for job in counted) / len(counted)
    disk_wait_s = sum(job.disk_wait_s for job in counted) / len(counted)
    limits = jobs_per_day(plan, load)
    narrowest = min(limits, key=lambda name: limits[name])
    longest = max(plan.stages, key=lambda stage: stage.seconds)
    return SimulationOutcome(
        num_jobs=len(counted),
        utilisation=len(counted) * per_job / ((load.days * DAY_S - warm_s) * load.num_devices),
        wait_p50_s=quantile(waits, 0.5),
        wait_p99_s=quantile(waits, 0.99),
        total_p50_s=quantile(totals, 0.5),
        total_p99_s=quantile(totals, 0.99),
        mean_queue_wait_s=queue_wait_s,
        mean_disk_wait_s=disk_wait_s,
        bottleneck=narrowest if sum(waits) / len(waits) > longest.seconds else longest.stage,
        most_per_day=limits[narrowest],
        saturated=load.variants_per_day >= limits[narrowest],
        stages=stages,
    )


def _stage_load(stage: StagePlan, jobs: Sequence[_Job], per_job: float) -> StageLoad:
    wait_s = sum(job.waits_s[stage.stage] for job in jobs) / len(jobs)
    return StageLoad(stage.stage, wait_s, stage.devices * stage.seconds / per_job if per_job else 0.0)


def jobs_per_day(plan: Plan, load: SimulatedLoad) -> dict[str, float]:
    """Compute the number of jobs per day that each resource admits if it is the only scarce one."""
    per_job = sum(stage.devices * stage.seconds for stage in plan.stages)
    limits = {"max_running": load.max_running / plan.seconds * DAY_S}
    if per_job:
        limits["devices"] = load.num_devices / per_job * DAY_S
    if load.disk_bytes is not None:
        held_s = sum(plan.stage(name).seconds for name in ("generate", "select", "train"))
        limits["disk"] = load.disk_bytes // _held_bytes(plan) / held_s * DAY_S
    return limits


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
