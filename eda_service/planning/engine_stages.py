"""The needs of a plan's stages if vLLM runs the target, and the memory that one device lacks for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from eda_service.config.job import AdaptConfig, EngineKind
from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import (
    ACROSS_NODES_EFFICIENCY,
    TENSOR_PARALLEL_EFFICIENCY,
    VLLM_START_S,
    Device,
)
from eda_service.planning.engine_need import (
    SIZE_FIELD,
    advice_of,
    device_problem,
    evaluation_host_bytes,
    evaluation_need,
    shard_host_bytes,
    smallest_size,
    vllm_need,
)
from eda_service.planning.stage_plan import StagePlan
from eda_service.planning.workload import Lengths, Workload
from eda_service.records import Stage
from eda_service.targets.files.shape import WEIGHT_BYTES, ModelShape

_EVALUATION_ENGINES = 3
"""Number of vLLM engines that run in turn: without a draft, with the base draft, with the adapted one."""


def share_of(device: Device, threads: int) -> float:
    """Return the number of devices of one process: a GPU, or as many cores as it has threads."""
    return float(threads) if device.memory_bytes is None else 1.0


def engine_share(device: Device, threads: int, config: AdaptConfig) -> float:
    """Return the effective number of devices of an engine over the target: ranks lose time waiting for each other."""
    share, settings = share_of(device, threads), config.target.vllm
    if config.target.engine is not EngineKind.VLLM or settings.tensor_parallel_size == 1:
        return share
    is_wide = config.train.use_gpu and settings.nodes > 1
    together = ACROSS_NODES_EFFICIENCY if is_wide else TENSOR_PARALLEL_EFFICIENCY
    return share * settings.tensor_parallel_size * together


def on_vllm(
    stage: StagePlan,
    config: AdaptConfig,
    shape: ModelShape,
    device: Device,
    lengths: Lengths,
    work: Workload,
    scale: Calibration,
    num_captures: int,
) -> StagePlan:
    """Change a stage of a job whose target vLLM runs: devices, memory, starts and loads become those of its engines.

    Args:
        stage: Stage as planned for one process of the project's own engine.
        config: Config of the job.
        shape: Sizes of its target.
        device: Device that stages compute on.
        lengths: Mean lengths of the data.
        work: Workload of the job.
        scale: Calibration; measured start times replace the assumed ones.
        num_captures: Number of layers that the draft reads.
    """
    share = stage.placement.gpus or share_of(device, max(1, stage.placement.threads))
    if stage.stage == Stage.GENERATE:
        more = 0.0 if scale.generate_start_s is not None else 2 * VLLM_START_S  # preparation, then the actors
        tokens = lengths.prompt + config.selfgen.max_new_tokens
        return replace(
            stage,
            devices=math.ceil(stage.placement.workers * share),
            seconds=stage.seconds + more,
            start_s=stage.start_s + more,
            memory_bytes=vllm_need(config, shape, device).memory_bytes,
            host_bytes=shard_host_bytes(config, shape, tokens, num_captures) + WEIGHT_BYTES * work.selector_parameters,
        )
    if stage.stage == Stage.EVALUATE:
        start_s = _EVALUATION_ENGINES * (stage.start_s + VLLM_START_S)
        parameters = work.draft_parameters
        return replace(
            stage,
            devices=math.ceil(share),
            seconds=stage.seconds - stage.start_s + start_s,
            start_s=start_s,
            storage_bytes=_EVALUATION_ENGINES * stage.storage_bytes,
            memory_bytes=evaluation_need(config, shape, device, parameters).memory_bytes,
            host_bytes=evaluation_host_bytes(config, shape, lengths.prompt, num_captures, parameters),
        )
    return stage


def lacking(
    config: AdaptConfig, shape: ModelShape, device: Device, stages: Sequence[StagePlan], work: Workload
) -> Iterator[str]:
    """Yield the memory that one device lacks, stage by stage, each with the setting to change."""
    if device.memory_bytes is None:
        return
    is_vllm = config.target.engine is EngineKind.VLLM
    size = smallest_size(config, shape, device, work.draft_parameters)
    if is_vllm:
        advice = advice_of(size)
        needs = {
            Stage.GENERATE: vllm_need(config, shape, device),
            Stage.EVALUATE: evaluation_need(config, shape, device, work.draft_parameters),
        }
        problems = {stage: device_problem(device, need, advice) for stage, need in needs.items()}
        yield from (f"{stage} needs {problem}" for stage, problem in problems.items() if problem is not None)
    of_engine = "take larger GPUs" if size is None else f"set target.engine to vllm and {SIZE_FIELD} to {size}"
    of_training = "set train.micro_batch_size to 1, raise train.num_workers and set train.zero_stage to 3"
    for stage in stages:
        is_trained = stage.stage == Stage.TRAIN
        if stage.memory_bytes > device.memory_bytes and (is_trained or not is_vllm):
            yield (
                f"{stage.stage} needs {stage.memory_bytes / 1e9:.0f} GB on one {device.name}, which has "
                f"{device.memory_bytes / 1e9:.0f} GB; {of_training if is_trained else of_engine}"
            )
