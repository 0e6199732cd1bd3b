"""Recent activity of each deployment: its totals at regular moments, for the charts of the web pages.

The totals are kept in this process for three hours. They are not in the database, because a write every quarter of a
minute would be the most frequent one; for older data, Prometheus reads the same counters at `/metrics`. A page that is
loaded again shows the same charts. After a restart of the API they begin anew, and each of several API processes keeps
its own. A time without requests takes one entry, so only busy deployments use memory.
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
    """The totals of a deployment up to a moment, since this process first read them.

    Attributes:
        at_s: Moment, on a clock in seconds that never goes back.
        tried_at: Draft tokens by position, counted only where all earlier ones were accepted.
        accepted_at: Accepted draft tokens by position.
    """

    at_s: float
    num_tokens: int = 0
    tried_at: tuple[int, ...] = ()
    accepted_at: tuple[int, ...] = ()

    def did_the_same(self, other: Totals) -> bool:
        """Whether nothing happened between the two moments."""
        return (self.num_tokens, self.tried_at, self.accepted_at) == (
            other.num_tokens, other.tried_at, other.accepted_at
        )  # fmt: skip


@dataclass(frozen=True)
class Span:
    """The rates of a deployment between two moments.

    Attributes:
        began_s: Beginning in seconds before now, as `ended_s` is the end.
        acceptance_length: Acceptance length of chains of a given depth; None if too little was drafted since the last
            span that has one.
    """

    began_s: float
    ended_s: float
    tokens_per_s: float
    acceptance_length: float | None


@dataclass
class _Kept:
    """Totals of one deployment that never shrink, computed from counters that may."""

    last: Reading
    totals: list[Totals] = field(default_factory=list)

    def add(self, reading: Reading) -> None:
        """Add a reading; counters that have shrunk were reset by restarted replicas, and are counted from zero."""
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
    """Reads the totals of every deployment regularly, in a thread of its own.

    Args:
        deployments: Function that lists the deployments.
        readings: Function that reads their totals, by uid; deployments of which no replica answers are left out.
        clock: Clock of the readings.
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
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def run_once(self) -> None:
        """Read once, and forget deployments that were removed."""
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
        """Return the tokens per second between the last two readings; None if there are no two, or they are old."""
        totals = self._of(uid)
        if len(totals) < 2 or self._clock() - totals[-1].at_s > _LATELY_S:
            return None
        return _rate(totals[-2], totals[-1])

    def spans(self, uid: str, *, depth: int) -> list[Span]:
        """Divide the window into at most `NUM_POINTS` equal spans, oldest first; empty if there were no requests.

        Args:
            uid: Uid of the deployment.
            depth: Number of drafted tokens for which acceptance is computed, as in the evaluation of its pack.
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
    """Compute the totals at evenly spaced moments of the window; between two readings the work is spread evenly."""
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
    """Totals at a moment between two readings; counts by position are the earlier reading's: they stay whole."""
    part = min(max((moment - before.at_s) / max(after.at_s - before.at_s, 1e-9), 0.0), 1.0)
    tokens = before.num_tokens + round((after.num_tokens - before.num_tokens) * part)
    known = after if part >= 1.0 else before
    return Totals(moment, tokens, known.tried_at, known.accepted_at)


def _rate(before: Totals, after: Totals) -> float:
    return max(0.0, (after.num_tokens - before.num_tokens) / max(after.at_s - before.at_s, 1e-9))


def _sum(kept: Sequence[int], now: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    """Add, by position, the growth since the last reading to the kept counts."""
    return tuple(a + b - c for a, b, c in zip_longest(kept, now, before, fillvalue=0))
