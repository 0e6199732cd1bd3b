"""The plan of one job: seconds, device-hours, bytes on disk and over the network, memory, stage by stage.

A decoding round reads the weights once and multiplies its rows; the two are added, which is what was measured on this
machine (decode-growth.json) and errs on the long side where a GPU overlaps them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from eda_service.config.job import AdaptConfig
from eda_service.drafts.draft_config import DraftConfig
from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import (
    ACTIVATION_FACTOR,
    PUBLISH_S,
    STORE_BYTES_PER_S,
    VALIDATE_S,
    Device,
)
from eda_service.planning.placement import DRIVER, Placement, placements
from eda_service.planning.workload import OPTIMIZER_BYTES, Decoding, Lengths, Workload, workload
from eda_service.records import Stage
from eda_service.targets.shape import FEATURE_BYTES, WEIGHT_BYTES, ModelShape

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        stage: Its name.
        devices: Held while it runs; 0: it needs none.
        seconds: From start to end.
        start_s: Of these, processes that start and weights that are loaded.
        tokens: Decoded, or trained on.
        disk_bytes: Written and kept until the job's end or the next stage.
        storage_bytes: Over the network to and from storage, if it is not on the machine itself.
        exchange_bytes: Gradients sent, all workers together: over the network where they are on several machines.
        memory_bytes: Of one device, at most.
        placement: What it asks Ray for.
    """

    stage: str
    devices: int
    seconds: float
    start_s: float
    tokens: float
    disk_bytes: float
    storage_bytes: float
    exchange_bytes: float
    memory_bytes: float
    placement: Placement = DRIVER

    @property
    def device_hours(self) -> float:
        """Devices times hours."""
        return self.devices * self.seconds / 3600.0


@dataclass(frozen=True)
class Plan:
    """A job's stages in order.

    Attributes:
        device: What it was computed for.
        stages: In order.
        warnings: What does not fit.
    """

    device: Device
    stages: tuple[StagePlan, ...]
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """From start to end, when it waits for nothing."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """Of all stages."""
        return sum(stage.device_hours for stage in self.stages)

    @property
    def disk_bytes(self) -> float:
        """The most that lies on disk at once."""
        return sum(stage.disk_bytes for stage in self.stages)

    @property
    def storage_bytes(self) -> float:
        """Of all stages."""
        return sum(stage.storage_bytes for stage in self.stages)

    @property
    def exchange_bytes(self) -> float:
        """Of all stages."""
        return sum(stage.exchange_bytes for stage in self.stages)

    def stage(self, name: str) -> StagePlan:
        """One stage by name."""
        return next(stage for stage in self.stages if stage.stage == name)


def make_plan(
    config: AdaptConfig,
    shape: ModelShape,
    device: Device,
    lengths: Lengths,
    calibration: Calibration | None = None,
    draft: DraftConfig | None = None,
) -> Plan:
    """Plan a job.

    Args:
        config: The job; `selfgen.num_actors` and `train.num_workers` say over how many devices it goes.
        shape: Of its target.
        device: What one worker has; a CPU worker has as many as it has threads.
        lengths: Of its data.
        calibration: What a real run took beside its plan; None: as the constants say.
        draft: Shape of its base draft; None: an EAGLE-1 draft's for such a target.
    """
    work, scale = workload(config, shape, lengths, draft), calibration or Calibration()
    validate_s = VALIDATE_S if scale.validate_s is None else scale.validate_s
    stages = (
        StagePlan("validate", 0, validate_s, validate_s, 0.0, 0.0, 0.0, 0.0, 0.0),
        _generate(config, shape, device, lengths, work, scale),
        _select(work),
        _train(config, shape, device, work, scale),
        _evaluate(config, shape, device, lengths, work, scale),
        StagePlan("publish", 0, PUBLISH_S, 0.0, 0.0, WEIGHT_BYTES * work.trainable, 0.0, 0.0, 0.0),
    )
    placed = placements(config)
    whole = tuple(replace(stage, placement=placed[Stage(stage.stage)]) for stage in stages)
    return Plan(device, whole, tuple(_warnings(device, whole)))


def decode_s(device: Device, share: float, shape: ModelShape, work: Decoding, context: float) -> float:
    """Seconds of decoding on one worker, prompts included; `share` is its number of devices."""
    weights = work.rounds * shape.weight_bytes / (share * device.bandwidth_bytes_per_s)
    cache = work.tokens * context * shape.kv_bytes_per_token / (share * device.bandwidth_bytes_per_s)
    products = 2.0 * shape.num_parameters * work.tokens / (share * device.decode_flops_per_s)
    prefill = 2.0 * shape.num_parameters * work.prompt_tokens / (share * device.prefill_flops_per_s)
    return weights + cache + products + prefill


def _share(device: Device, threads: int) -> float:
    return float(threads) if device.memory_bytes is None else 1.0


def _select(work: Workload) -> StagePlan:
    copied = 2 * work.kept_feature_bytes  # read and written
    return StagePlan("select", 0, copied / STORE_BYTES_PER_S, 0.0, 0.0, work.kept_feature_bytes, copied, 0.0, 0.0)


def _generate(
    config: AdaptConfig, shape: ModelShape, device: Device, lengths: Lengths, work: Workload, scale: Calibration
) -> StagePlan:
    selfgen = config.selfgen
    share, context = _share(device, selfgen.threads_per_actor), lengths.prompt + lengths.answer / 2
    load = shape.weight_bytes / device.load_bytes_per_s
    reference = decode_s(device, share, shape, work.reference, lengths.prompt)
    shards = work.shards_per_actor * decode_s(device, share, shape, work.shard, context)
    # The gate loads the draft's own target and drafts on both, before anything is generated.
    gate = 0.0 if work.gate is None else load + 2 * decode_s(device, share, shape, work.gate, context)
    fixed = 2 * load + device.start_s if scale.generate_start_s is None else scale.generate_start_s
    loads = 1 + selfgen.num_actors + (work.gate is not None)
    return StagePlan(
        stage="generate",
        devices=math.ceil(selfgen.num_actors * share),
        seconds=fixed + scale.generate * (gate + reference + shards),
        start_s=fixed,
        tokens=work.num_samples * lengths.answer + work.reference.tokens,
        disk_bytes=work.feature_bytes + shape.io_bytes,
        exchange_bytes=0.0,
        storage_bytes=work.feature_bytes + shape.io_bytes + loads * shape.weight_bytes,
        memory_bytes=max(
            shard_memory_bytes(config, shape, lengths, work), gate_memory_bytes(config, shape, lengths, work)
        ),
    )


def shard_memory_bytes(config: AdaptConfig, shape: ModelShape, lengths: Lengths, work: Workload) -> float:
    """Of one generation actor: the target, keys and values and states of a batch, and what makes a draft's first state
    of them.
    """
    selfgen = config.selfgen
    batch = min(selfgen.batch_size, selfgen.shard_size)
    cache = batch * (lengths.prompt + selfgen.max_new_tokens) * shape.kv_bytes_per_token
    states = batch * selfgen.max_new_tokens * shape.hidden_size * FEATURE_BYTES
    return shape.weight_bytes + WEIGHT_BYTES * work.start_parameters + cache + states


def gate_memory_bytes(config: AdaptConfig, shape: ModelShape, lengths: Lengths, work: Workload) -> float:
    """Of the task that holds the base draft's loss against `min_gain`: the target and the draft's own beside each
    other, the draft, keys and values of a batch; 0 without it.
    """
    if work.gate is None:
        return 0.0
    evaluation = config.evaluation
    batch = min(evaluation.batch_size, evaluation.num_prompts)
    cache = batch * (lengths.prompt + evaluation.max_new_tokens) * shape.kv_bytes_per_token
    return 2 * shape.weight_bytes + WEIGHT_BYTES * work.base_parameters + cache


def _train(config: AdaptConfig, shape: ModelShape, device: Device, work: Workload, scale: Calibration) -> StagePlan:
    train = config.train
    share = _share(device, train.threads_per_worker)
    rate = share * device.train_flops_per_s
    per_worker = work.tokens_per_step / train.num_workers
    # A ring sends each gradient twice, but for the part that a worker holds itself.
    gradient_bytes = WEIGHT_BYTES if train.use_gpu else _FLOAT32_BYTES
    exchanged = 2 * gradient_bytes * work.trainable * (train.num_workers - 1) / train.num_workers
    step_s = per_worker * work.flops_per_token / rate + device.step_overhead_s + exchanged / device.exchange_bytes_per_s
    heldout_s = (train.epochs + 1) * work.heldout_tokens * work.flops_per_token / 3 / rate
    fixed = device.start_s if scale.train_start_s is None else scale.train_start_s
    return StagePlan(
        stage="train",
        devices=math.ceil(train.num_workers * share),
        seconds=fixed + scale.train * (work.num_steps * step_s + heldout_s),
        start_s=fixed,
        tokens=work.tokens_per_step * work.num_steps / train.loss.unroll_steps,
        disk_bytes=2 * (OPTIMIZER_BYTES + WEIGHT_BYTES) * work.trainable,
        storage_bytes=work.kept_feature_bytes * train.epochs,
        exchange_bytes=train.num_workers * exchanged * work.num_steps,
        memory_bytes=train_memory_bytes(config, shape, work),
    )


def train_memory_bytes(config: AdaptConfig, shape: ModelShape, work: Workload) -> float:
    """Of one training worker: the draft, the target's embedding and head, optimizer and gradients as ZeRO splits them,
    and what the backward pass keeps.
    """
    train = config.train
    split = {stage: train.num_workers if train.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    rows = work.scored_tokens
    weights = WEIGHT_BYTES * (work.draft_parameters - work.trainable + work.trainable / split[3])
    ends = WEIGHT_BYTES * shape.hidden_size * (shape.vocab_size + rows)
    optimizer = OPTIMIZER_BYTES * work.trainable / split[1]
    gradients = _FLOAT32_BYTES * work.trainable / split[2]
    positions = work.tokens_per_step / train.num_workers
    kept = positions * (ACTIVATION_FACTOR * shape.hidden_size + 3.0 * _FLOAT32_BYTES * rows)
    return weights + ends + optimizer + gradients + kept


def _evaluate(
    config: AdaptConfig, shape: ModelShape, device: Device, lengths: Lengths, work: Workload, scale: Calibration
) -> StagePlan:
    share, context = _share(device, config.evaluation.threads), lengths.prompt + lengths.answer / 2
    acceptance = work.num_modes * decode_s(device, share, shape, work.evaluation, context)
    timed = work.num_timed_modes * decode_s(device, share, shape, work.timed, context)
    load = shape.weight_bytes / device.load_bytes_per_s
    return StagePlan(
        stage="evaluate",
        devices=math.ceil(share),
        seconds=load + scale.evaluate * (acceptance + timed),
        start_s=load,
        tokens=work.num_modes * work.evaluation.tokens + work.num_timed_modes * work.timed.tokens,
        disk_bytes=0.0,
        storage_bytes=shape.weight_bytes,
        exchange_bytes=0.0,
        memory_bytes=shape.weight_bytes + 2.0 * WEIGHT_BYTES * work.draft_parameters,
    )


def _warnings(device: Device, stages: tuple[StagePlan, ...]) -> list[str]:
    if device.memory_bytes is None:
        return []
    return [
        f"{stage.stage} needs {stage.memory_bytes / 1e9:.0f} GB on one {device.name}, which has "
        f"{device.memory_bytes / 1e9:.0f} GB: the service loads a target on one device; take a larger one"
        for stage in stages
        if stage.memory_bytes > device.memory_bytes
    ]
