"""What a job will need, before it is one: disk, time, steps. Nothing is loaded that weighs and nothing is stored."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from api.schemas import EstimateBody
from eda_service.artifacts import bounded_json
from eda_service.artifacts.registry import find_draft
from eda_service.artifacts.rundir import machine_path
from eda_service.config import AdaptConfig, Method
from eda_service.distributed.estimate import disk_need_bytes, estimate_time, num_samples, num_train_steps
from eda_service.errors import BaseDraftMissingError
from eda_service.model.draft_config import DraftConfig, PrivateConfig, parameter_counts
from eda_service.target.facts import TargetFacts, facts_of

_PROBE = (256, 1024, 1024)
_PROBE_SECONDS = 0.1


def estimate(config: AdaptConfig, home: Path) -> EstimateBody:
    """The estimate of a config that passed the checks at submit.

    Raises:
        InputError: The target cannot be found, or its files do not say their sizes.
    """
    draft = _draft_config(find_draft(config.base_draft, home))
    facts = facts_of(config.target)
    need = disk_need_bytes(config, hidden_size=facts.hidden_size, vocab_size=facts.vocab_size)
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    rate = _known_flops(home)
    seconds = estimate_time(
        config, num_target_parameters=facts.num_parameters, draft=draft, flops_per_s=rate or _measure_flops()
    )
    warnings = _warnings(config, facts, draft, need, free)
    if rate is None:
        warnings.append("no job has run here yet: the time is a guess from this process alone and may be far off")
    return EstimateBody(
        disk_bytes=need,
        free_disk_bytes=free,
        num_samples=num_samples(config),
        num_train_steps=num_train_steps(config),
        trainable_parameters=_trainable(config, draft),
        seconds=seconds.as_dict(),
        fits=need <= free and not _misfits(facts, draft),
        warnings=warnings,
    )


def _draft_config(directory: Path) -> DraftConfig:
    path = directory / "config.json"
    try:
        return DraftConfig.model_validate(bounded_json.read_object(path))
    except (ValueError, OSError) as error:
        raise BaseDraftMissingError(
            f"base draft {directory.parent.name}@{directory.name} cannot be read; register it again", param="base_draft"
        ) from error


def _trainable(config: AdaptConfig, draft: DraftConfig) -> int:
    train = config.train
    if train.method is not Method.EDA:
        return parameter_counts(draft, None, train_fc=True)[1]
    width = max(8, round(draft.expert_width * train.private_width_fraction))
    return parameter_counts(draft, PrivateConfig(private_width=width, mix=train.mix), train_fc=train.train_fc)[1]


def _misfits(facts: TargetFacts, draft: DraftConfig) -> list[str]:
    shapes = asdict(facts)
    return [
        f"the target's {name} is {shapes[name]}, the base draft's is {getattr(draft, name)}; name another base draft"
        for name in ("hidden_size", "vocab_size")
        if shapes[name] != getattr(draft, name)
    ]


def _warnings(config: AdaptConfig, facts: TargetFacts, draft: DraftConfig, need: int, free: int) -> list[str]:
    found = _misfits(facts, draft)
    if need > free:
        found.append(
            f"the job needs {need / 1e9:.2f} GB of disk and {free / 1e9:.2f} GB is free; lower dataset.num_prompts"
        )
    if config.train.method is Method.LORA:
        found.append("trainable_parameters is that of the whole draft: the size of LoRA updates depends on the rank")
    return found


def _known_flops(home: Path) -> float | None:
    """What the workers of the last job measured; None before the first."""
    try:
        return float(json.loads(machine_path(home).read_text(encoding="utf-8"))["flops_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measure_flops() -> float:
    """Single-precision operations per second of this process, an estimate of the workers' rate that errs on the slow
    side where they multiply in bfloat16.
    """
    rows, inner, columns = _PROBE
    left, right = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    left @ right
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < _PROBE_SECONDS:
        left @ right
        count += 1
    return 2.0 * rows * inner * columns * count / (time.perf_counter() - started)
