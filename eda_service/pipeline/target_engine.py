"""The engine of a job's target: chosen once, in validate, and opened by every stage that needs the target."""

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
"""Number of lost engines over one shard after which the job fails."""


def engine_of(run: RunDir, config: AdaptConfig) -> EngineKind:
    """Return the job's engine: as its config says, else as validate chose; a stage run alone takes the own engine."""
    if config.target.engine is not None:
        return config.target.engine
    validated = run.read_record(ValidateRecord, Stage.VALIDATE)
    return EngineKind.EDA if validated is None else validated.engine


def chosen_engine(spec: TargetSpec, device: torch.device) -> EngineKind:
    """Choose the engine that the target names, else the own engine if the target fits the device, and vLLM if not.

    Args:
        spec: Target, whose files are on this machine.
        device: Device that stages compute on.
    """
    if spec.engine is not None:
        return spec.engine
    weights = choose_dtype(spec, device).itemsize * count_parameters(resolve_target(spec).model_dir)
    return engine_for(weights, memory_bytes(device))


def open_engine(
    config: AdaptConfig, kind: EngineKind, *, captures: Sequence[int] | None, batch_size: int | None = None
) -> TargetEngine:
    """Open the target of a job, ready to answer.

    Args:
        config: Config of the job.
        kind: Engine that runs the target.
        captures: Layers whose states will be asked for beside the head's input; None: no states.
        batch_size: Number of requests decoded together; None: that of self-generation.
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
    """Open the target of a job inside vLLM.

    Args:
        config: Config of the job.
        ends: Metadata, embedding and head of its target.
        captures: Layers whose states will be asked for beside the head's input; None: no states.
        batch_size: Number of requests decoded together.
        draft: Draft that vLLM drafts with; None: no draft.
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
    """End this process when the engine that it holds has ended, so that Ray repeats the task in a new one, as after any
    crash. A broken engine must not be asked again.

    Args:
        losses: File that counts the engines lost over this work, if Ray would repeat it without limit; None: Ray
            counts.

    Raises:
        EngineLostError: The engine was lost `MAX_LOSSES` times, so the work itself ends engines.
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
    """Return the bytes of the whole device, free or not, so that the choice does not depend on the moment."""
    if device.type != "cpu":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
