"""A job's attempts and stages on one time line, to scale; `templates/_timeline.html` draws it.

It is drawn twice, for wide and for narrow screens, because text in a picture shrinks with the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from api.ui.charts import Tick
from eda_service.formatting import duration
from eda_service.jobstore import Event, Job
from eda_service.records import Stage

WIDE, NARROW = 900, 420
ATTEMPTS = "attempts"
_LEFT, _RIGHT, _LANE, _BOTTOM = 84, 14, 22, 26
_LEAST_WIDTH = 2.0
_ENDS = frozenset({"attempt_lost", "job_failed", "job_succeeded", "job_cancelled", "job_retried"})
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)


@dataclass(frozen=True)
class Stretch:
    """A time in which an attempt or a stage ran.

    Attributes:
        lane: Row of the time line: the attempts, or a stage.
        label: Label in words.
        state: One of done, running or stopped.
    """

    lane: str
    label: str
    state: str
    began_at: float
    ended_at: float


@dataclass(frozen=True)
class Bar:
    """A drawn stretch."""

    x: float
    width: float
    style: str
    label: str
    shown: str


@dataclass(frozen=True)
class Lane:
    """A row of the time line."""

    label: str
    y: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Timeline:
    """A time line, ready to be drawn.

    Attributes:
        summary: Content of the time line, in words.
    """

    width: int
    height: int
    left: int
    right: int
    bottom: int
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    summary: str


def attempts_of(job: Job, events: Iterable[Event], now: float) -> list[Stretch]:
    """List the job's attempts, and the stages in which they were lost, from its events, oldest first."""
    found: list[Stretch] = []
    began: float | None = None
    stage: tuple[str, float] | None = None
    for event in events:
        if event.type == "attempt_started":
            began, stage = float(event.at), None
        elif event.type == "stage_started" and event.stage in set(Stage):
            stage = str(event.stage), float(event.at)
        elif event.type == "stage_finished":
            stage = None
        elif event.type in _ENDS and began is not None:
            state = "done" if event.type == "job_succeeded" else "stopped"
            found.append(Stretch(ATTEMPTS, event.type, state, began, float(event.at)))
            if stage is not None and state == "stopped":
                found.append(Stretch(stage[0], event.type, state, stage[1], float(event.at)))
            began = stage = None
    if began is not None:
        state = "stopped" if job.is_terminal else "running"
        found.append(Stretch(ATTEMPTS, state, state, began, job.finished_at or now))
    return found


def drawn(stretches: Sequence[Stretch], queued_at: float, width: int) -> Timeline | None:
    """Draw all stretches on one scale, from the start of the first to the end of the last; None if nothing has run.

    Args:
        stretches: Stretches in any order; those of one lane are drawn in one row.
        queued_at: Time at which the job was queued; its waiting time is written in words, not drawn.
        width: Width of the picture, in SVG units.
    """
    if not stretches:
        return None
    begin, end = min(each.began_at for each in stretches), max(each.ended_at for each in stretches)
    whole = max(end - begin, 1e-3)
    right = width - _RIGHT

    def at(moment: float) -> float:
        return round(_LEFT + (moment - begin) / whole * (right - _LEFT), 1)

    there = {each.lane for each in stretches}
    names = [name for name in (ATTEMPTS, *(each.value for each in Stage)) if name in there]
    lanes = []
    for place, name in enumerate(names):
        mine = sorted((each for each in stretches if each.lane == name), key=lambda each: each.began_at)
        lanes.append(Lane(name, place * _LANE, tuple(_bar(each, number, at) for number, each in enumerate(mine, 1))))
    waited = begin - queued_at
    told = f"{duration(whole)} from the first start to the end"
    told += f", after {duration(waited)} in the queue" if waited >= 1 else ""
    bottom = len(lanes) * _LANE
    most = 8 if width == WIDE else 4
    ticks = tuple(Tick(at(begin + second), _clock(second)) for second in _marks(whole, most))
    return Timeline(width, bottom + _BOTTOM, _LEFT, right, bottom, tuple(lanes), ticks, told)


def _bar(stretch: Stretch, number: int, at: Callable[[float], float]) -> Bar:
    x, took = at(stretch.began_at), duration(stretch.ended_at - stretch.began_at)
    width = round(max(_LEAST_WIDTH, at(stretch.ended_at) - x), 1)
    name = f"attempt {number}" if stretch.lane == ATTEMPTS else stretch.lane
    is_wide = width > 6.5 * len(str(number)) + 8 and stretch.lane == ATTEMPTS
    return Bar(x, width, f"b-{stretch.state}", f"{name}: {stretch.label}, {took}", str(number) if is_wide else "")


def _marks(whole_s: float, most: int) -> list[int]:
    step = next((each for each in _STEPS_S if whole_s / each <= most), None)
    step = step or round(whole_s / most / 86_400 + 0.5) * 86_400
    return list(range(0, int(whole_s) + 1, step))


def _clock(seconds: int) -> str:
    """Write a time on the scale: `0`, `40 s`, `5 min`, `1:30 h`."""
    if seconds < 60:
        return f"{seconds} s" if seconds else "0"
    if seconds < 3600:
        return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds // 60}:{seconds % 60:02d} min"
    return f"{seconds // 3600} h" if seconds % 3600 == 0 else f"{seconds // 3600}:{seconds % 3600 // 60:02d} h"
