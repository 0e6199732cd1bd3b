"""How packs look in a terminal: a table of versions, everything about one, two side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from eda_service.cli.jobs.view import columns
from eda_service.client import Evaluation, Pack, PackComparison, PackVersion, PackVersionDetail
from eda_service.formatting import duration, size

_NONE = "-"
_HEAD: tuple[str, ...] = ("PACK", "TARGET", "DRAFT", "ACCEPTANCE", "SPEEDUP", "MARK", "SIZE", "JOB", "AGE")


def packs_table(packs: Iterable[Pack]) -> str:
    """One line per version: what it is for, what it gains, and whether it is the one that is meant."""
    rows = [_HEAD]
    for pack in packs:
        rows += [_row(each, _mark(pack, each)) for each in pack.versions]
    return columns(rows)


def pack_text(pack: PackVersionDetail) -> str:
    """Everything about one version."""
    marks = [name for name, is_so in (("champion", pack.champion), ("pinned", pack.pinned)) if is_so]
    lines = [columns([_HEAD, _row(pack, ", ".join(marks))])]
    if pack.source:
        lines.append(f"pulled   from {pack.source}; its numbers were not measured here")
    if pack.evaluation is not None:
        lines.append(f"measured on {pack.evaluation.measured_on}")
    lines += [_fact("numbers", f"{name} {value:.4g}") for name, value in sorted(pack.metrics.items())]
    for rival in pack.rivals:
        speed = "" if rival.speedup is None else f", speed {rival.speedup:.2f}x"
        lines.append(_fact("beside", f"{rival.pack}: acceptance {rival.acceptance_length:.2f}{speed}"))
    lines += [_fact("not by", f"{name}: {why}") for name, why in pack.unmeasured_rivals.items()]
    lines += [_fact("fixed", f"{name} {length:.2f}") for name, length in sorted(pack.fixed.items())]
    lines += [_fact("made", line) for line in _lineage(pack)]
    lines += [_fact("setting", f"{name}={value}") for name, value in _settings(pack.config)]
    served = [f"{each.name}" + (f" (as {each.pack_ref})" if each.pack_ref else "") for each in pack.deployments]
    lines.append(_fact("serves", ", ".join(served) or f"nowhere; `eda packs deploy {pack.id}` deploys it"))
    return "\n".join(lines)


def comparison_text(found: PackComparison) -> str:
    """Two packs, or why not."""
    if not found.comparable:
        return f"{found.pack} and {found.other} cannot be compared: {found.reason}"
    rows = [
        ("PACK", "ACCEPTANCE", "SPEEDUP"),
        (found.pack, _length(found.acceptance_length), _times(found.speedup)),
        (found.other, _length(found.other_acceptance_length), _times(found.other_speedup)),
    ]
    gain = "" if found.gain is None else f"{found.pack} accepts {found.gain:.3f} times as much; "
    return f"{columns(rows)}\n{gain}{found.reason}"


def _row(pack: PackVersion, mark: str) -> tuple[str, ...]:
    return (
        pack.id,
        _target(pack.target),
        pack.base_draft or _NONE,
        _gain(pack.evaluation),
        _times(None if pack.evaluation is None else pack.evaluation.speedup),
        ", ".join(each for each in (mark, "pulled" if pack.source else "") if each) or _NONE,
        _NONE if pack.size_bytes is None else size(pack.size_bytes),
        pack.job_id or _NONE,
        _NONE if pack.created_at is None else duration(time.time() - pack.created_at),
    )


def _mark(pack: Pack, version: PackVersion) -> str:
    if pack.champion != version.version:
        return ""
    return "pinned" if pack.champion_pinned else "champion"


def _target(target: dict[str, Any] | None) -> str:
    if target is None:
        return _NONE
    adapter = target.get("adapter")
    return f"{target.get('model')} + {adapter}" if adapter else str(target.get("model"))


def _gain(found: Evaluation | None) -> str:
    return _NONE if found is None else f"{found.base_acceptance_length:.2f} -> {found.acceptance_length:.2f}"


def _length(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def _times(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}x"


def _fact(name: str, text: str) -> str:
    return f"{name:<8} {text}"


def _lineage(pack: PackVersionDetail) -> list[str]:
    """What it was made from, and by what."""
    trained = ""
    if pack.num_trainable is not None and pack.num_parameters:
        trained = f", {pack.num_trainable:,} of {pack.num_parameters:,} parameters trained"
    lines = [f"method {pack.method or '?'}{trained}, seed {_NONE if pack.seed is None else pack.seed}"]
    lines.append(f"target {_target(pack.target)}, weights {(pack.target_sha256 or '?')[:12]}")
    lines.append(f"draft {pack.base_draft or '?'}, {(pack.base_draft_sha256 or '?')[:12]}")
    if pack.job_id:
        lines.append(f"job {pack.job_id}; `eda jobs show {pack.job_id}`")
    lines += [f"file {name}, {digest[:12]}" for name, digest in sorted(pack.files.items())]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(pack.library_versions.items()))
    return [*lines, *([f"with {versions}"] if versions else [])]


def _settings(config: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A job's settings as `--set` takes them."""
    found: list[tuple[str, str]] = []
    for name, value in sorted(config.items()):
        if isinstance(value, dict) and value:
            found += _settings(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return found
