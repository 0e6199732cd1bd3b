"""Acceptance length of served packs over the newest rounds, made comparable to their evaluation.

An endpoint drafts as many tokens as pay, an evaluation always K, so plain means cannot be compared. The counts by
position give the chance that a draft token is accepted when all before it were; multiplied along K positions these
chances give the length that fixed chains would have had. Where the draft is unsure, chains are cut early, so deep
positions look a little better than they are, and a fall is reported late rather than too often.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from api.endpoint.metrics.counts import ModelCounts

_LEAST_TRIES = 30


@dataclass(frozen=True)
class AcceptanceTotals:
    """A pack's totals at one moment."""

    at_s: float
    num_rounds: int
    tried_at: tuple[int, ...]
    accepted_at: tuple[int, ...]

    @property
    def num_drafts(self) -> int:
        """Return the number of rounds that drafted: a tenth or fewer of all where drafting does not pay."""
        return self.tried_at[0] if self.tried_at else 0


class Window:
    """The newest rounds of one pack under one name."""

    def __init__(self) -> None:
        self._samples: deque[AcceptanceTotals] = deque()

    def add(self, at_s: float, counts: ModelCounts) -> None:
        """Add the totals of now; totals that shrank begin a new window, because the replicas have restarted."""
        sample = AcceptanceTotals(at_s, counts.num_rounds, tuple(counts.tried_at), tuple(counts.accepted_at))
        if self._samples and sample.num_rounds < self._samples[-1].num_rounds:
            self._samples.clear()
        self._samples.append(sample)

    def acceptance_length(self, *, min_rounds: int, window_s: float, depth: int) -> float | None:
        """Acceptance length of the newest `min_rounds` rounds or a few more; None if the window has too few that
        drafted.

        Args:
            min_rounds: Number of rounds to look back on.
            window_s: Longest time in seconds to look back.
            depth: K, the number of drafted tokens of the evaluation.
        """
        newest = self._samples[-1] if self._samples else None
        if newest is None:
            return None
        while len(self._samples) > 1 and newest.at_s - self._samples[1].at_s >= window_s:
            self._samples.popleft()  # one stays at the window's beginning
        for sample in reversed(self._samples):
            enough = newest.num_rounds - sample.num_rounds >= min_rounds
            if enough and newest.num_drafts - sample.num_drafts >= _LEAST_TRIES:
                return chain_length(
                    _difference(newest.tried_at, sample.tried_at),
                    _difference(newest.accepted_at, sample.accepted_at),
                    depth,
                )
        return None


def chain_length(tried_at: Sequence[int], accepted_at: Sequence[int], depth: int) -> float:
    """Compute the acceptance length of chains of `depth` tokens from proposals and acceptances by position.

    For a position with hardly any proposals the chance of the one before it is used.
    """
    length, reached, rate = 1.0, 1.0, 0.0
    for place in range(depth):
        tried = tried_at[place] if place < len(tried_at) else 0
        if tried >= _LEAST_TRIES or (place == 0 and tried):
            rate = (accepted_at[place] if place < len(accepted_at) else 0) / tried
        reached *= rate
        length += reached
    return length


def _difference(now: Sequence[int], before: Sequence[int]) -> list[int]:
    return [number - (before[place] if place < len(before) else 0) for place, number in enumerate(now)]
