"""The needs of a job before it is submitted: placement, memory, disk, time, steps. No weights are loaded and nothing is
stored. Imports neither Ray nor torch, so that the API can import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from eda_service.config.job import AdaptConfig, Method
from eda_service.drafts.draft_config import DraftConfig
from eda_service.planning.base_draft import draft_config
from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import Device
from eda_service.planning.engine_need import check_split, choose_engine
from eda_service.planning.estimate import disk_need_bytes, draft_parameters, num_samples, num_train_steps
from eda_service.planning.history import TimeRange, read_history
from eda_service.planning.kept import device_of, kept_calibration
from eda_service.planning.plan import Plan, make_plan
from eda_service.planning.workload import expected_lengths
from eda_service.storage.place import current_place
from eda_service.storage.published.packs import measured_on
from eda_service.targets.files.shape import ModelShape, shape_of_target


@dataclass(frozen=True)
class StageNeed:
    """The needs of one stage.

    Attributes:
        stage: Name of the stage.
        placement: driver, task, pool, pack or spread (`eda_service.planning.placement.Strategy`).
        workers: Largest number of processes.
        cpus: Logical CPUs of each process.
        gpus: GPUs of each process.
        threads: Threads of each process.
        memory_bytes: Largest use of one device's memory.
        host_memory_bytes: Largest use of the memory of one worker's machine beside the devices; 0: little.
        nodes: Number of nodes of each worker, with the same number of its GPUs on each.
        disk_bytes: Bytes written, at the expected lengths.
        seconds: Expected seconds from start to end.
        seconds_low: Lower end of the expected range of seconds.
        seconds_high: Upper end of the expected range of seconds.
    """

    stage: str
    placement: str
    workers: int
    cpus: float
    gpus: int
    threads: int
    memory_bytes: int
    disk_bytes: int
    seconds: float
    host_memory_bytes: int = 0
    nodes: int = 1
    seconds_low: float | None = None
    seconds_high: float | None = None


@dataclass(frozen=True)
class TargetSplit:
    """The split of a job's target over vLLM's devices.

    Attributes:
        engine: The word `vllm`.
        devices: Number of devices of one engine.
        nodes: Number of nodes of these devices.
        weight_bytes: Bytes of weights on each device.
        cache_bytes: Bytes of keys and values of a full batch, on each device.
        room_bytes: Bytes that vLLM may use of each device; None: unknown.
    """

    engine: str
    devices: int
    nodes: int
    weight_bytes: int
    cache_bytes: int
    room_bytes: int | None


@dataclass(frozen=True)
class ExpectedTime:
    """The expected duration of a job in seconds: a range from `low` to `high`, and its middle.

    Attributes:
        num_jobs: Number of earlier jobs of this home behind the estimate; 0: only the plan's constants, with a wider
            range.
    """

    low: float
    median: float
    high: float
    num_jobs: int


@dataclass(frozen=True)
class DryRun:
    """The needs of one job.

    Attributes:
        device: Plan's name of the device that its workers compute on.
        stages: Stages in order.
        disk_bytes: Upper bound of the bytes it writes.
        free_disk_bytes: Free bytes where it would write; None: on storage by URL, which is not asked.
        num_samples: Number of generated answers.
        num_train_steps: Number of optimizer steps.
        trainable_parameters: Number of trained parameters of its draft.
        seconds: Seconds by part: start, generate (with select), train, evaluate (with publish), total.
        fits: Whether disk and cluster have enough space, and target and base draft have the same sizes.
        warnings: Problems that prevent the job, and uncertain assumptions.
        measured_on: Description of the prompts of its evaluation.
        target: Split of its target by vLLM; None: the project's own engine runs it.
        expected: Expected duration of the job, and the number of earlier jobs behind it.
    """

    device: str
    stages: tuple[StageNeed, ...]
    disk_bytes: int
    free_disk_bytes: int | None
    num_samples: int
    num_train_steps: int
    trainable_parameters: int
    seconds: dict[str, float]
    fits: bool
    warnings: tuple[str, ...]
    measured_on: str
    target: TargetSplit | None = None
    expected: ExpectedTime | None = None


def dry_run(
    config: AdaptConfig,
    home: Path,
    *,
    gpu: str | None = None,
    shape: ModelShape | None = None,
    told: Sequence[str] = (),
) -> DryRun:
    """Plan a config that passed the checks at submit.

    Args:
        config: Config of the job.
        home: Root of the state where it would run.
        gpu: Type of GPU, if the job uses GPUs.
        shape: Sizes of its target, if the caller knows them; None: they are read from the target's files.
        told: Further problems, in the caller's words; if there are any, the job does not fit.

    Raises:
        InputError: The target cannot be found, its files lack its sizes, its heads cannot be split by
            `tensor_parallel_size`, or the type of GPU is unknown.
        BaseDraftMissingError: The base draft cannot be read.
    """
    draft = draft_config(config.base_draft, home)
    if shape is None:
        shape = shape_of_target(config.target)
        check_split(chosen_config(config, shape, gpu=gpu).target, shape)
    plan, calibration = expected_plan(config, shape, draft, home, gpu=gpu)
    ranges, num_jobs = expected_ranges(config, shape, draft, home, gpu=gpu)
    need = disk_need_bytes(config, draft)
    free = current_place().free_bytes(home)
    misfits = _misfits(shape, draft)
    return DryRun(
        device=plan.device.name,
        stages=tuple(
            replace(each, seconds_low=round(ranges[each.stage].low, 1), seconds_high=round(ranges[each.stage].high, 1))
            for each in stage_needs(plan)
        ),
        disk_bytes=need,
        free_disk_bytes=free,
        num_samples=num_samples(config),
        num_train_steps=num_train_steps(config),
        trainable_parameters=draft_parameters(config.train, draft)[1],
        seconds=part_seconds(plan),
        measured_on=measured_on(config),
        target=target_split(plan),
        expected=ExpectedTime(
            low=round(sum(each.low for each in ranges.values())),
            median=round(sum(each.median for each in ranges.values())),
            high=round(sum(each.high for each in ranges.values())),
            num_jobs=num_jobs,
        ),
        fits=(free is None or need <= free) and not misfits and not told,
        warnings=(*told, *misfits, *_warnings(config, need, free), *plan.warnings, *_guesses(plan, calibration)),
    )


def expected_plan(
    config: AdaptConfig, shape: ModelShape, draft: DraftConfig, home: Path, *, gpu: str | None = None
) -> tuple[Plan, Calibration | None]:
    """Plan a job with the median speed of the earlier jobs of its home; return the plan and their calibration.

    Args:
        config: Config of the job.
        shape: Sizes of its target.
        draft: Config of its base draft.
        home: Root of the state where it runs.
        gpu: Type of GPU, if the job uses GPUs.

    Raises:
        InputError: The type of GPU is unknown.
    """
    device = device_of(config, gpu)
    calibration = kept_calibration(home, device)
    lengths = expected_lengths(config)
    return make_plan(config, shape, device, lengths, calibration, draft, _machine_bytes(device)), calibration


def expected_ranges(
    config: AdaptConfig, shape: ModelShape, draft: DraftConfig, home: Path, *, gpu: str | None = None
) -> tuple[dict[str, TimeRange], int]:
    """Estimate how long each stage of a job takes, from the earlier jobs of its home; return also their number.

    Args:
        config: Config of the job.
        shape: Sizes of its target.
        draft: Config of its base draft.
        home: Root of the state where it runs.
        gpu: Type of GPU, if the job uses GPUs.

    Raises:
        InputError: The type of GPU is unknown.
    """
    device, lengths = device_of(config, gpu), expected_lengths(config)
    history = read_history(home, device)

    def plan(calibration: Calibration | None) -> Plan:
        return make_plan(config, shape, device, lengths, calibration, draft, _machine_bytes(device))

    return history.ranges(plan), history.num_jobs


def chosen_config(config: AdaptConfig, shape: ModelShape, *, gpu: str | None = None) -> AdaptConfig:
    """Return the job with the engine that its target will have on such GPUs, or on CPUs of machines like this one.

    Raises:
        InputError: The type of GPU is unknown.
    """
    device = device_of(config, gpu)
    return choose_engine(config, shape, device, _machine_bytes(device)).config


def _machine_bytes(device: Device) -> float | None:
    """Return this machine's memory in bytes, which a CPU shares; None: the device has its own."""
    return None if device.memory_bytes is not None else float(psutil.virtual_memory().total)


def target_split(plan: Plan) -> TargetSplit | None:
    """Return the split of a plan's target by vLLM; None: the project's own engine runs it."""
    need = plan.engine
    if need is None:
        return None
    return TargetSplit(
        engine=need.kind.value,
        devices=need.size,
        nodes=need.nodes,
        weight_bytes=round(need.weight_bytes),
        cache_bytes=round(need.cache_bytes),
        room_bytes=None if need.room_bytes is None else round(need.room_bytes),
    )


def stage_needs(plan: Plan) -> tuple[StageNeed, ...]:
    """List the needs of a plan's stages."""
    return tuple(
        StageNeed(
            stage=stage.stage,
            placement=stage.placement.strategy.value,
            workers=stage.placement.workers,
            cpus=stage.placement.cpus,
            gpus=stage.placement.gpus,
            threads=stage.placement.threads,
            memory_bytes=round(stage.memory_bytes),
            disk_bytes=round(stage.disk_bytes),
            seconds=round(stage.seconds, 1),
            host_memory_bytes=round(stage.host_bytes),
            nodes=stage.placement.nodes,
        )
        for stage in plan.stages
    )


def part_seconds(plan: Plan) -> dict[str, float]:
    """Return whole seconds of a plan by part, with the start of processes apart from the work."""

    def work(*names: str) -> float:
        return sum(plan.stage(name).seconds - plan.stage(name).start_s for name in names)

    parts = {
        "start": sum(stage.start_s for stage in plan.stages),
        "generate": work("generate", "select"),
        "train": work("train"),
        "evaluate": work("evaluate", "publish"),
        "total": plan.seconds,
    }
    return {name: float(round(value)) for name, value in parts.items()}


def _misfits(shape: ModelShape, draft: DraftConfig) -> list[str]:
    wanted = {
        "hidden_size": (shape.hidden_size, draft.target_width),
        "vocab_size": (shape.vocab_size, draft.vocab_size),
    }
    found = [
        f"the target's {name} is {has}, the base draft's is {wants}; name another base draft"
        for name, (has, wants) in wanted.items()
        if has != wants
    ]
    if draft.captures and draft.captures[-1] > shape.num_layers:
        found.append(
            f"the target has {shape.num_layers} layers, the base draft reads the state after {draft.captures[-1]}; "
            "name another base draft"
        )
    return found


def _warnings(config: AdaptConfig, need: int, free: int | None) -> list[str]:
    found = []
    if free is not None and need > free:
        found.append(
            f"the job needs {need / 1e9:.2f} GB of disk and {free / 1e9:.2f} GB is free; lower dataset.num_prompts"
        )
    if config.train.method is Method.LORA:
        found.append("trainable_parameters is that of the whole draft: the size of LoRA updates depends on the rank")
    return found


def _guesses(plan: Plan, calibration: Calibration | None) -> list[str]:
    if calibration is not None:
        return []
    kind = "measured elsewhere" if plan.device.is_measured else "assumed"
    return [
        f"no job has ended here yet: the time is for device {plan.device.name} ({kind}: {plan.device.source}) and may "
        "be far off"
    ]
