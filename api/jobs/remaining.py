"""How long a running job still takes: what is left of its stage, and the stages that come, as a range.

The stage that runs says how long it still takes, or tells by its pace once a part of it is done. Where it is slower or
faster than was expected, the stages that come are taken to be so too at one end of the range: whatever slows one stage
down slows the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eda_service.jobstore import Job
from eda_service.records import STAGES, Stage, StageTime

_TELLS_FROM = 20.0  # percent of a stage from which its pace says something


@dataclass(frozen=True)
class Expected:
    """How long each stage of a job was expected to take before it began, and on how many earlier jobs that rests."""

    stages: Mapping[Stage, StageTime]
    num_jobs: int


@dataclass(frozen=True)
class Remaining:
    """Seconds to the end of a job."""

    low_s: int
    high_s: int
    num_jobs: int


def remaining(job: Job, expected: Expected, now: float) -> Remaining | None:
    """The rest of a running job; None while nobody knows where it is.

    Args:
        job: With its last heartbeat.
        expected: Of its stages.
        now: In seconds since the epoch.
    """
    progress = job.progress or {}
    began, stage = progress.get("stage_started_at"), progress.get("stage")
    if began is None or stage not in set(STAGES):
        return None
    here, spent = expected.stages.get(Stage(stage)), max(0.0, now - float(began))
    if here is None:
        return None
    left = _left(progress, spent, now)
    low, high = (max(0.0, here.low - spent), max(0.0, here.high - spent)) if left is None else (left, left)
    pace = max(1.0, spent / here.median) if left is None else (spent + left) / here.median
    later = [expected.stages[each] for each in STAGES[STAGES.index(Stage(stage)) + 1 :] if each in expected.stages]
    low += sum(each.low for each in later) * min(1.0, pace)
    high += sum(each.high for each in later) * max(1.0, pace)
    return Remaining(round(low), round(high), expected.num_jobs)


def _left(progress: Mapping[str, Any], spent: float, now: float) -> float | None:
    """Seconds to the end of the stage, as it says itself or by its pace; None while it is too early to say."""
    eta, percent = progress.get("eta_s"), float(progress.get("percent") or 0.0)
    if eta is not None:
        return max(0.0, float(eta) - (now - float(progress.get("updated_at") or now)))
    return spent * (100.0 - percent) / percent if percent >= _TELLS_FROM else None
