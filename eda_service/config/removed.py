"""Settings of earlier versions: they are ignored in stored configs and refused in new requests.

A run directory, a pack and a row of the database hold every setting of the version that wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationInfo

ASKED = {"asked": True}
"""Validation context for settings of a new request, as opposed to settings that were stored."""

_VLLM = {
    "vllm_cache_gib": "kv_cache_gib",
    "vllm_eager": "enforce_eager",
    "vllm_gpu_fraction": "gpu_memory_fraction",
}
"""Old settings of `selfgen`, with their names in `target.vllm`."""
_SHARED_FRACTION = 0.6
"""Effective fraction of a plain `vllm_gpu_fraction` when each actor held the target twice."""
_EARLY = ("early_epochs", "early_fraction")


def without_early_training(values: Any, info: ValidationInfo) -> Any:
    """Drop the two settings of early training (ADR 0021) from `train`.

    Raises:
        ValueError: A new request has them with values that would have changed something.
    """
    if not isinstance(values, Mapping):
        return values
    if values.get("early_epochs") and info.context == ASKED:
        raise ValueError(
            f"train.early_epochs is {values['early_epochs']}, but training begins when all samples are selected: early "
            "training made a job 1.08 times as fast and was taken out; leave train.early_epochs and "
            "train.early_fraction out"
        )
    return {name: value for name, value in values.items() if name not in _EARLY}


def with_engine_of_target(values: Any) -> Any:
    """Move the engine from `selfgen`, where earlier versions had it, to the job's target. There it only wrote the
    answers; now it does everything that needs the target. If a config has both names, the new one counts.
    """
    selfgen = values.get("selfgen") if isinstance(values, Mapping) else None
    if not isinstance(selfgen, Mapping) or not selfgen.keys() & {"engine", *_VLLM}:
        return values
    target = values.get("target")
    target = dict(target) if isinstance(target, Mapping) else target
    if isinstance(target, dict) and selfgen.get("engine") == "vllm":
        target.setdefault("engine", "vllm")
        moved = {new: selfgen[old] for old, new in _VLLM.items() if old in selfgen}
        if moved.get("gpu_memory_fraction") == _SHARED_FRACTION:
            del moved["gpu_memory_fraction"]
        target["vllm"] = {**moved, **(target.get("vllm") or {})}
    kept = {name: value for name, value in selfgen.items() if name not in {"engine", *_VLLM}}
    return {**values, "selfgen": kept, "target": target}
