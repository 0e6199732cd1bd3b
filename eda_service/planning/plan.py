"""The plan of one job: seconds, device-hours, bytes on disk and over the network, memory, stage by stage.

A decoding round reads the weights once and multiplies its rows; the two times are added, which was measured on this
machine (decode-growth.json) and is too long where a GPU overlaps them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from eda_service.config.job import AdaptConfig, EngineKind
from eda_service.drafts.draft_config import DraftConfig
from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import (
    ACTIVATION_FACTOR,
    CORE,
    PUBLISH_S,
    STORE_BYTES_PER_S,
    VALIDATE_S,
    Device,
)
from eda_service.planning.engine_need import EngineNeed, choose_engine, vllm_need
from eda_service.planning.engine_stages import engine_share, lacking, on_vllm, share_of
from eda_service.planning.estimate import split_samples
from eda_service.planning.placement import placements
from eda_service.planning.stage_plan import StagePlan
from eda_service.planning.workload import OPTIMIZER_BYTES, Decoding, Lengths, Workload, workload
from eda_service.records import Stage
from eda_service.targets.files.shape import FEATURE_BYTES, WEIGHT_BYTES, ModelShape
from eda_service.training.schedule import SIMULATED_DEPTH

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Plan:
    """The plan of a job: its stages in order.

    Attributes:
        device: Device that it was computed for.
        stages: Stages in order.
        warnings: Problems that prevent the job.
        engine: Needs of vLLM for each of its devices; None: the project's own engine runs the target.
        lacking: Warnings about the memory of one device; they are also in `warnings`.
    """

    device: Device
    stages: tuple[StagePlan, ...]
    warnings: tuple[str, ...]
    engine: EngineNeed | None = None
    lacking: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds from start to end, without waiting."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """Device-hours of all stages."""
        return sum(stage.device_hours for stage in self.stages)

    @property
    def disk_bytes(self) -> float:
        """Largest number of bytes on disk at the same time."""
        return sum(stage.disk_bytes for stage in self.stages)

    @property
    def storage_bytes(self) -> float:
        """Bytes to and from storage, of all stages."""
        return sum(stage.storage_bytes for stage in self.stages)

    @property
    def exchange_bytes(self) -> float:
        """Bytes between workers, of all stages."""
        return sum(stage.exchange_bytes for stage in self.stages)

    def stage(self, name: str) -> StagePlan:
        """Return one stage by name."""
        return next(stage for stage in self.stages if stage.stage == name)


def make_plan(
    config: AdaptConfig,
    shape: ModelShape,
    device: Device,
    lengths: Lengths,
    calibration: Calibration | None = None,
    draft: DraftConfig | None = None,
    machine_bytes: float | None = None,
) -> Plan:
    """Plan a job.

    Args:
        config: Config of the job; `selfgen.num_actors` and `train.num_workers` give the numbers of devices.
        shape: Sizes of its target.
        device: Device of one worker; a CPU worker has one core per thread.
        lengths: Mean lengths of its data.
        calibration: Factors measured on earlier runs; None: the constants alone.
        draft: Config of its base draft; None: an EAGLE-1 draft's for such a target.
        machine_bytes: Memory of the machine that CPUs share, used to choose the target's engine if the job does not
            name it; None: enough.
    """
    chosen = choose_engine(config, shape, device, machine_bytes)
    config = chosen.config
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
    engine = None
    if config.target.engine is EngineKind.VLLM:
        engine = vllm_need(config, shape, device)
        captures = 0 if draft is None else len(draft.captures)
        whole = tuple(on_vllm(stage, config, shape, device, lengths, work, scale, captures) for stage in whole)
    short = tuple(lacking(config, shape, device, whole, work))
    return Plan(device, whole, (*((chosen.why,) if chosen.why else ()), *short), engine, short)


def decode_s(device: Device, share: float, shape: ModelShape, work: Decoding, context: float) -> float:
    """Compute the seconds of decoding on one worker, prompts included; `share` is its number of devices."""
    read = WEIGHT_BYTES * shape.read_parameters(work.tokens / work.rounds if work.rounds else 0.0)
    weights = work.rounds * read / (share * device.bandwidth_bytes_per_s)
    cache = work.tokens * context * shape.kv_bytes_per_token / (share * device.bandwidth_bytes_per_s)
    products = 2.0 * shape.multiplied_parameters * work.tokens / (share * device.decode_flops_per_s)
    prefill = 2.0 * shape.multiplied_parameters * work.prompt_tokens / (share * device.prefill_flops_per_s)
    return weights + cache + products + prefill


def _select(work: Workload) -> StagePlan:
    copied = 2 * work.kept_feature_bytes  # read and written
    return StagePlan("select", 0, copied / STORE_BYTES_PER_S, 0.0, 0.0, work.kept_feature_bytes, copied, 0.0, 0.0)


def _generate(
    config: AdaptConfig, shape: ModelShape, device: Device, lengths: Lengths, work: Workload, scale: Calibration
) -> StagePlan:
    selfgen = config.selfgen
    share, context = engine_share(device, selfgen.threads_per_actor, config), lengths.prompt + lengths.answer / 2
    load = shape.weight_bytes / device.load_bytes_per_s
    reference = decode_s(device, share, shape, work.reference, lengths.prompt)
    shards = work.shards_per_actor * decode_s(device, share, shape, work.shard, context)
    # The check loads the draft's own target and drafts on both, before anything is generated.
    gate = 0.0 if work.gate is None else load + 2 * decode_s(device, share, shape, work.gate, context)
    fixed = 2 * load + device.start_s if scale.generate_start_s is None else scale.generate_start_s
    loads = 1 + selfgen.num_actors + (work.gate is not None)
    return StagePlan(
        stage="generate",
        devices=math.ceil(selfgen.num_actors * share),
        seconds=fixed + scale.generate * (gate + reference + shards + measuring_s(config, device, work)),
        start_s=fixed,
        tokens=work.num_samples * lengths.answer + work.reference.tokens,
        disk_bytes=work.feature_bytes + shape.io_bytes,
        exchange_bytes=0.0,
        storage_bytes=work.feature_bytes + shape.io_bytes + loads * shape.weight_bytes,
        memory_bytes=max(
            shard_memory_bytes(config, shape, lengths, work), gate_memory_bytes(config, shape, lengths, work)
        ),
    )


def measuring_s(config: AdaptConfig, device: Device, work: Workload) -> float:
    """Seconds in which one actor measures its samples with the base draft; 0 where the selector does not look at it.
    Beside vLLM, which holds the GPU, the draft computes on the actor's CPU threads.
    """
    selfgen = config.selfgen
    if config.target.engine is EngineKind.VLLM:
        rate = selfgen.threads_per_actor * CORE.prefill_flops_per_s
    else:
        rate = share_of(device, selfgen.threads_per_actor) * device.prefill_flops_per_s
    return work.num_samples / selfgen.num_actors * work.selector_flops / rate


def shard_memory_bytes(config: AdaptConfig, shape: ModelShape, lengths: Lengths, work: Workload) -> float:
    """Compute the memory of one generation actor: the target, keys and values and states of a batch, and of the base
    draft the part that makes its first state from them, or all of it where samples are measured with it.
    """
    selfgen = config.selfgen
    batch = min(selfgen.batch_size, selfgen.shard_size)
    cache = batch * (lengths.prompt + selfgen.max_new_tokens) * shape.kv_bytes_per_token
    states = batch * selfgen.max_new_tokens * shape.hidden_size * FEATURE_BYTES
    of_draft = WEIGHT_BYTES * (work.start_parameters + work.selector_parameters)
    return shape.weight_bytes + of_draft + cache + states


def gate_memory_bytes(config: AdaptConfig, shape: ModelShape, lengths: Lengths, work: Workload) -> float:
    """Compute the memory of the task that compares the base draft's loss with `min_gain`: the target and the draft's
    own target, the draft, keys and values of a batch; 0 without the comparison.
    """
    if work.gate is None:
        return 0.0
    evaluation = config.evaluation
    batch = min(evaluation.batch_size, evaluation.num_prompts)
    cache = batch * (lengths.prompt + evaluation.max_new_tokens) * shape.kv_bytes_per_token
    return 2 * shape.weight_bytes + WEIGHT_BYTES * work.base_parameters + cache


def _train(config: AdaptConfig, shape: ModelShape, device: Device, work: Workload, scale: Calibration) -> StagePlan:
    train = config.train
    share = share_of(device, train.threads_per_worker)
    rate = share * device.train_flops_per_s
    per_worker = work.tokens_per_step / train.num_workers
    # A ring sends each gradient twice, except the part that a worker holds itself.
    gradient_bytes = WEIGHT_BYTES if train.use_gpu else _FLOAT32_BYTES
    exchanged = 2 * gradient_bytes * work.trainable * (train.num_workers - 1) / train.num_workers
    step_s = per_worker * work.flops_per_token / rate + device.step_overhead_s + exchanged / device.exchange_bytes_per_s
    num_epochs = train.epochs + train.repair_epochs
    # A step of repair unrolls as many positions as the held-out pass does.
    deeper = max(0.0, SIMULATED_DEPTH / work.unroll_steps - 1.0) * train.repair_epochs / num_epochs
    step_s += deeper * per_worker * work.flops_per_token / rate
    heldout_s = (num_epochs + 1) * work.heldout_tokens * work.flops_per_token / 3 / rate
    fixed = device.start_s if scale.train_start_s is None else scale.train_start_s
    return StagePlan(
        stage="train",
        devices=math.ceil(train.num_workers * share),
        seconds=fixed + scale.train * (work.num_steps * step_s + heldout_s),
        start_s=fixed,
        tokens=work.tokens_per_step * work.num_steps / work.unroll_steps,
        disk_bytes=2 * (OPTIMIZER_BYTES + WEIGHT_BYTES) * work.trainable,
        storage_bytes=work.kept_feature_bytes * num_epochs,
        exchange_bytes=train.num_workers * exchanged * work.num_steps,
        memory_bytes=train_memory_bytes(config, shape, work),
    )


def train_memory_bytes(config: AdaptConfig, shape: ModelShape, work: Workload) -> float:
    """Compute the memory of one training worker: the draft, the target's embedding and head, optimizer and gradients as
    ZeRO splits them, and the activations kept for the backward pass.
    """
    train = config.train
    split = {stage: train.num_workers if train.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    rows = work.scored_tokens
    weights = WEIGHT_BYTES * (work.draft_parameters - work.trainable + work.trainable / split[3])
    ends = WEIGHT_BYTES * shape.hidden_size * (shape.vocab_size + rows)
    optimizer = OPTIMIZER_BYTES * work.trainable / split[1]
    gradients = _FLOAT32_BYTES * work.trainable / split[2]
    unrolled = max(work.unroll_steps, SIMULATED_DEPTH if train.repair_epochs else 0)
    tokens_per_step = work.tokens_per_step / work.unroll_steps * unrolled
    positions = tokens_per_step / train.num_workers
    if train.micro_batch_size is not None:
        # of one forward; the others of a worker's share of the batch follow it
        sequences = min(train.batch_size, split_samples(config)[0])
        positions = min(positions, tokens_per_step / sequences * train.micro_batch_size)
    kept = positions * (ACTIVATION_FACTOR * shape.hidden_size + 3.0 * _FLOAT32_BYTES * rows)
    return weights + ends + optimizer + gradients + kept


def _evaluate(
    config: AdaptConfig, shape: ModelShape, device: Device, lengths: Lengths, work: Workload, scale: Calibration
) -> StagePlan:
    share, context = engine_share(device, config.evaluation.threads, config), lengths.prompt + lengths.answer / 2
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
