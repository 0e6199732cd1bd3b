"""Who runs the target of a job: chosen once, in validate, and opened by every stage that needs the target."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from eda_service.config.job import AdaptConfig, EngineKind, TargetSpec
from eda_service.engines.engine import TargetEngine
from eda_service.engines.own import OwnEngine
from eda_service.engines.vllm import EngineLostError, VllmDraft, VllmEngine
from eda_service.planning.engine_need import engine_for
from eda_service.records import Stage, ValidateRecord
from eda_service.storage.files import write_bytes
from eda_service.storage.runs.run import RunDir
from eda_service.targets.device import choose_device
from eda_service.targets.ends import TargetEnds, choose_dtype
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.files.shape import count_parameters
from eda_service.targets.load_ends import load_ends
from eda_service.targets.loader import load_target

logger = logging.getLogger(__name__)

MAX_LOSSES = 3
"""Engines that one shard may end before the job fails."""


def engine_of(run: RunDir, config: AdaptConfig) -> EngineKind:
    """Who runs the target: as the job says, else as validate chose; a stage that is run alone takes the own engine."""
    if config.target.engine is not None:
        return config.target.engine
    validated = run.read_record(ValidateRecord, Stage.VALIDATE)
    return EngineKind.EDA if validated is None else validated.engine


def chosen_engine(spec: TargetSpec, device: torch.device) -> EngineKind:
    """As the target says, else the own engine for one that fits the device, and vLLM for a larger one.

    Args:
        spec: The target, whose files are on this machine.
        device: One that stages compute on.
    """
    if spec.engine is not None:
        return spec.engine
    weights = choose_dtype(spec, device).itemsize * count_parameters(resolve_target(spec).model_dir)
    return engine_for(weights, memory_bytes(device))


def open_engine(
    config: AdaptConfig, kind: EngineKind, *, captures: Sequence[int] | None, batch_size: int | None = None
) -> TargetEngine:
    """The target of a job, ready to answer.

    Args:
        config: Of the job.
        kind: Who runs it.
        captures: Layers whose states will be asked for beside what the head reads; None: no states.
        batch_size: Requests decoded together; None: those of self-generation.
    """
    device, selfgen = choose_device(config.device), config.selfgen
    if kind is EngineKind.EDA:
        return OwnEngine(load_target(config.target, device=device))
    return open_vllm(config, load_ends(config.target), captures=captures, batch_size=batch_size or selfgen.batch_size)


def open_vllm(
    config: AdaptConfig,
    ends: TargetEnds,
    *,
    captures: Sequence[int] | None,
    batch_size: int,
    draft: VllmDraft | None = None,
) -> VllmEngine:
    """The same inside vLLM.

    Args:
        config: Of the job.
        ends: Of its target.
        captures: As above.
        batch_size: Requests decoded together.
        draft: What vLLM drafts with; None: no draft.
    """
    selfgen = config.selfgen
    longest = max(selfgen.max_new_tokens, config.selection.reference_max_new_tokens, config.evaluation.max_new_tokens)
    return VllmEngine(
        ends,
        config.target.vllm,
        max_tokens=selfgen.max_prompt_tokens + longest + 1,
        batch_size=batch_size,
        captures=captures,
        threads=selfgen.threads_per_actor,
        seed=config.seed,
        draft=draft,
    )


@contextmanager
def ends_with_engine(losses: Path | None = None) -> Iterator[None]:
    """End this process when the engine that it holds has ended: Ray then does the task again in a new one, as after any
    crash. An engine half dead must not be asked again.

    Args:
        losses: File that counts the engines lost over this work, where Ray would do it again for ever; None: Ray
            counts.

    Raises:
        EngineLostError: Too many were: the work itself ends them.
    """
    try:
        yield
    except EngineLostError:
        if losses is not None:
            count = 1 + (int(losses.read_text(encoding="utf-8")) if losses.exists() else 0)
            write_bytes(losses, str(count).encode("utf-8"))
            if count >= MAX_LOSSES:
                raise
        logger.exception("this process ends with its engine")
        logging.shutdown()
        os._exit(1)


def memory_bytes(device: torch.device) -> int:
    """Of the whole device, whatever of it is taken now: the choice is not to depend on the moment."""
    if device.type != "cpu":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
