"""How long a running job still takes: worked out by hand, with the pace of its stage for those that come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from api.jobs.remaining import Expected, Remaining, remaining
from eda_service.jobstore import Job
from eda_service.records import Stage, StageTime

NOW = 10_000.0
EXPECTED = Expected(
    {
        Stage.TRAIN: StageTime(low=50.0, median=100.0, high=300.0),
        Stage.EVALUATE: StageTime(low=40.0, median=60.0, high=90.0),
        Stage.PUBLISH: StageTime(low=1.0, median=1.0, high=2.0),
    },
    7,
)


def left(**progress: Any) -> Remaining | None:
    job = cast(Job, SimpleNamespace(progress={"stage": "train", **progress}))
    return remaining(job, EXPECTED, NOW)


@pytest.mark.parametrize(
    ("progress", "low", "high"),
    [
        # just begun: the rest of what was expected, and the stages that come
        ({"percent": 0.0, "stage_started_at": NOW - 20}, 30 + 41, 280 + 92),
        # half done after 100 s: 100 s are left, twice the median in all, so what comes may take twice as long
        ({"percent": 50.0, "stage_started_at": NOW - 100}, 100 + 41, 100 + 2 * 92),
        # half done after 25 s: 25 s are left, half of the median in all, so what comes may take half as long
        ({"percent": 50.0, "stage_started_at": NOW - 25}, 25 + 41 / 2, 25 + 92),
        # the stage says itself how long, 5 s ago
        ({"percent": 10.0, "eta_s": 65, "updated_at": NOW - 5, "stage_started_at": NOW - 40}, 60 + 41, 60 + 92),
        # too early to tell, and slower than anything that was seen: four times the median so far
        ({"percent": 1.0, "stage_started_at": NOW - 400}, 41, 4 * 92),
        # the last stage
        ({"stage": "publish", "percent": 0.0, "stage_started_at": NOW}, 1, 2),
    ],
)
def test_the_rest_is_a_range(progress: dict[str, Any], low: float, high: float) -> None:
    assert left(**progress) == Remaining(round(low), round(high), 7)


def test_where_nobody_knows_nothing_is_said() -> None:
    assert left() is None
    assert left(stage="generate", stage_started_at=NOW) is None
    assert left(stage="odd", stage_started_at=NOW) is None
