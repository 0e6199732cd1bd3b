"""What each deployment did lately: its totals at regular moments, for the charts of the pages.

Kept in this process, for three hours. Not in the database: a look every quarter of a minute would be the most frequent
write there is, and whoever wants to see further back has Prometheus, which reads the same counters at `/metrics`. So a
page that is loaded again shows the same; after a restart of the API the charts begin anew, and each of several API
processes keeps its own. While nothing is asked, one entry stands for the whole time, so only busy deployments fill it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

from api.metrics.acceptance import chain_length
from api.metrics.throughput import Reading
from api.troubles import Troubles
from eda_service.jobstore import Deployment
from eda_service.jobstore.deployments.deployments import DeploymentStore

logger = logging.getLogger(__name__)

INTERVAL_S = 15.0
WINDOW_S = 3 * 3600.0
NUM_POINTS = 90
_LEAST_TRIES = 30  # as many first draft tokens say something about acceptance
_LATELY_S = 3 * INTERVAL_S
_STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Totals:
    """What a deployment has done up to a moment, since this process first looked.

    Attributes:
        at_s: On a clock that only grows.
        tried_at: Draft tokens by place, of which every one before was accepted.
        accepted_at: Accepted ones by place.
    """

    at_s: float
    num_tokens: int = 0
    tried_at: tuple[int, ...] = ()
    accepted_at: tuple[int, ...] = ()

    def did_the_same(self, other: Totals) -> bool:
        """Whether nothing happened between the two."""
        return (self.num_tokens, self.tried_at, self.accepted_at) == (
            other.num_tokens, other.tried_at, other.accepted_at
        )  # fmt: skip


@dataclass(frozen=True)
class Span:
    """What happened between two moments.

    Attributes:
        began_s: Seconds before now, as is `ended_s`.
        acceptance_length: As chains of a given depth; None where too little was drafted since the last one that has it.
    """

    began_s: float
    ended_s: float
    tokens_per_s: float
    acceptance_length: float | None


@dataclass
class _Kept:
    """Of one deployment: totals that never shrink, made of counters that may."""

    last: Reading
    totals: list[Totals] = field(default_factory=list)

    def add(self, reading: Reading) -> None:
        """Take a reading; counters that have shrunk were begun anew by their replicas, and count from zero."""
        before, now = self.last.counts, reading.counts
        is_anew = now.num_new_tokens < before.num_new_tokens or now.num_rounds < before.num_rounds
        latest = self.totals[-1]
        self._append(
            Totals(
                reading.at_s,
                latest.num_tokens + now.num_new_tokens - (0 if is_anew else before.num_new_tokens),
                _sum(latest.tried_at, now.tried_at, [] if is_anew else before.tried_at),
                _sum(latest.accepted_at, now.accepted_at, [] if is_anew else before.accepted_at),
            )
        )
        self.last = reading

    def _append(self, now: Totals) -> None:
        if len(self.totals) > 1 and now.did_the_same(self.totals[-1]) and now.did_the_same(self.totals[-2]):
            self.totals.pop()
        self.totals.append(now)
        while len(self.totals) > 1 and now.at_s - self.totals[1].at_s >= WINDOW_S:
            self.totals.pop(0)  # one stays at the window's beginning


class ServingHistory:
    """Looks at every deployment in a thread of its own.

    Args:
        deployments: Which deployments there are.
        readings: What they have done by now, by uid; those of which no replica answers are not there.
        clock: The clock of the readings.
    """

    def __init__(
        self,
        deployments: DeploymentStore,
        readings: Callable[[Sequence[Deployment]], Mapping[str, Reading]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployments, self._readings, self._clock = deployments, readings, clock
        self._kept: dict[str, _Kept] = {}
        self._troubles = Troubles(logger)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="history", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def run_once(self) -> None:
        """Look once. What is kept of a deployment that is gone is forgotten."""
        deployments = self._deployments.all()
        found = self._readings(deployments) if deployments else {}
        kept = {each.uid: self._kept[each.uid] for each in deployments if each.uid in self._kept}
        for uid, reading in found.items():
            if uid in kept:
                kept[uid].add(reading)
            else:
                kept[uid] = _Kept(reading, [Totals(reading.at_s)])
        self._kept = kept

    def tokens_per_s(self, uid: str) -> float | None:
        """How fast a deployment answered between the last two looks; None where they were not made, or long ago."""
        totals = self._of(uid)
        if len(totals) < 2 or self._clock() - totals[-1].at_s > _LATELY_S:
            return None
        return _rate(totals[-2], totals[-1])

    def spans(self, uid: str, *, depth: int) -> list[Span]:
        """The window in at most `NUM_POINTS` spans of equal length, oldest first; empty where nothing was asked.

        Args:
            uid: Of the deployment.
            depth: Of the chains that acceptance is told for, as in the evaluation of its pack.
        """
        totals, now = self._of(uid), self._clock()
        if len(totals) < 2 or totals[0].num_tokens == totals[-1].num_tokens:
            return []
        found, drafted = [], totals[0]
        for begin, end in pairwise(_borders(totals, now)):
            length = None
            tried = _sum((), end.tried_at, drafted.tried_at)
            if tried and tried[0] >= _LEAST_TRIES:
                length = chain_length(tried, _sum((), end.accepted_at, drafted.accepted_at), depth)
                drafted = end
            found.append(Span(now - begin.at_s, now - end.at_s, _rate(begin, end), length))
        return found

    def _of(self, uid: str) -> list[Totals]:
        kept = self._kept.get(uid)
        return [] if kept is None else list(kept.totals)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            with self._troubles.caught("looking at what deployments do"):
                self.run_once()
            self._stopping.wait(INTERVAL_S)


def _borders(totals: Sequence[Totals], now: float) -> list[Totals]:
    """The totals at evenly spaced moments of the window; between two looks the work is spread evenly."""
    begin = max(totals[0].at_s, now - WINDOW_S)
    step = max(INTERVAL_S, WINDOW_S / NUM_POINTS)
    num = max(1, round((totals[-1].at_s - begin) / step))
    moments = [begin + (totals[-1].at_s - begin) * place / num for place in range(num + 1)]
    found, place = [], 0
    for moment in moments:
        while place + 2 < len(totals) and totals[place + 1].at_s < moment:
            place += 1
        found.append(_at(moment, totals[place], totals[place + 1]))
    return found


def _at(moment: float, before: Totals, after: Totals) -> Totals:
    """Totals at a moment between two looks; counts by place are those of the look before, so that they stay whole."""
    part = min(max((moment - before.at_s) / max(after.at_s - before.at_s, 1e-9), 0.0), 1.0)
    tokens = before.num_tokens + round((after.num_tokens - before.num_tokens) * part)
    known = after if part >= 1.0 else before
    return Totals(moment, tokens, known.tried_at, known.accepted_at)


def _rate(before: Totals, after: Totals) -> float:
    return max(0.0, (after.num_tokens - before.num_tokens) / max(after.at_s - before.at_s, 1e-9))


def _sum(kept: Sequence[int], now: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    """By place: what was kept, and what came since."""
    return tuple(a + b - c for a, b, c in zip_longest(kept, now, before, fillvalue=0))
