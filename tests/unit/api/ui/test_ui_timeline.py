"""A job's attempts and stages on one scale: against times laid down by hand."""

from __future__ import annotations

import pytest

from api.ui.jobs.timeline import ATTEMPTS, NARROW, WIDE, Stretch, attempts_of, drawn
from eda_service.jobstore import Event, Job, Status

FACTS = {"id": "adapt_1", "owner": "a", "origin": "api", "kind": "adapt", "config": {}, "labels": {}, "priority": 50}


def event(at: int, kind: str, stage: str | None = None) -> Event:
    return Event(id=at, job_id="adapt_1", at=at, level="info", type=kind, message="", stage=stage)


def job(status: Status, finished_at: int | None = None) -> Job:
    return Job.model_construct(**FACTS, status=status, created_at=0, finished_at=finished_at)


def test_attempts_are_what_the_events_say() -> None:
    events = [
        event(0, "job_created"),
        event(100, "attempt_started"),
        event(101, "stage_started", "validate"),
        event(110, "stage_finished", "validate"),
        event(111, "stage_started", "generate"),
        event(160, "attempt_lost"),
        event(200, "attempt_started"),
        event(201, "stage_skipped", "validate"),
        event(202, "stage_started", "generate"),
        event(220, "stage_finished", "generate"),
        event(230, "stage_started", "train"),
        event(300, "job_failed"),
        event(900, "job_retried"),
        event(950, "attempt_started"),
        event(1000, "job_succeeded", "publish"),
    ]
    found = attempts_of(job(Status.SUCCEEDED, 1000), events, now=5000.0)
    assert [(each.lane, each.state, each.began_at, each.ended_at) for each in found] == [
        (ATTEMPTS, "stopped", 100, 160),
        ("generate", "stopped", 111, 160),
        (ATTEMPTS, "stopped", 200, 300),
        ("train", "stopped", 230, 300),
        (ATTEMPTS, "done", 950, 1000),
    ]


@pytest.mark.parametrize(
    ("status", "finished_at", "state", "ended_at"),
    [(Status.RUNNING, None, "running", 500.0), (Status.FAILED, 300, "stopped", 300)],
)
def test_an_attempt_without_an_end_goes_on_while_its_job_does(
    status: Status, finished_at: int | None, state: str, ended_at: float
) -> None:
    (found,) = attempts_of(job(status, finished_at), [event(100, "attempt_started")], now=500.0)
    assert (found.state, found.began_at, found.ended_at) == (state, 100, ended_at)


def test_everything_is_on_one_scale() -> None:
    stretches = [
        Stretch(ATTEMPTS, "attempt_lost", "stopped", 1000.0, 1200.0),
        Stretch(ATTEMPTS, "running", "running", 1300.0, 2000.0),
        Stretch("generate", "done", "done", 1300.0, 1800.0),
        Stretch("train", "running", "running", 1800.0, 2000.0),
    ]
    line = drawn(stretches, 400.0, WIDE)
    assert line is not None
    assert [lane.label for lane in line.lanes] == [ATTEMPTS, "generate", "train"]
    unit = (line.right - line.left) / 1000
    places = [(bar.x, bar.width) for lane in line.lanes for bar in lane.bars]
    wanted = [(0, 200), (300, 700), (300, 500), (800, 200)]
    assert places == [pytest.approx((line.left + begin * unit, width * unit), abs=0.11) for begin, width in wanted]
    assert [tick.label for tick in line.ticks] == ["0", "5 min", "10 min", "15 min"]
    assert [tick.at for tick in line.ticks] == pytest.approx([line.left + 300 * n * unit for n in range(4)], abs=0.06)
    assert line.summary == "16m40s from the first start to the end, after 10m00s in the queue"
    assert [bar.label for bar in line.lanes[0].bars] == [
        "attempt 1: attempt_lost, 3m20s",
        "attempt 2: running, 11m40s",
    ]
    narrow = drawn(stretches, 400.0, NARROW)
    assert narrow is not None
    assert len(narrow.ticks) <= 5


@pytest.mark.parametrize("seconds", [0.0, 0.4, 7.0, 3_000.0, 86_400.0 * 40])
def test_any_length_has_a_few_marks(seconds: float) -> None:
    line = drawn([Stretch("train", "done", "done", 50.0, 50.0 + seconds)], 50.0, NARROW)
    assert line is not None
    assert 1 <= len(line.ticks) <= 5
    assert all(line.left <= tick.at <= line.right for tick in line.ticks)


def test_nothing_is_drawn_where_nothing_ran() -> None:
    assert drawn([], 0.0, WIDE) is None
