"""Round times on this machine: medians of the last rounds by rows and depth; what was never measured is estimated.

Medians, because a machine stalls: one round of five times the usual length must not switch speculation off.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median

_WINDOW = 25
_FEWEST = 3
_STEP_COST = 0.1
_SMALLEST_COST = 0.02
_PRIOR_WEIGHT = 8.0
_OUTLIER = 2.0
_FORGOTTEN_AFTER = 500


@dataclass
class RoundCosts:
    """Estimates the seconds of a round from the rounds measured so far.

    Depth 0 is an autoregressive step. The other depths lie on a line fitted through their medians, because a round
    costs a fixed part and an equal part per level. The line learns from every depth at once: the times of single depths
    differ by more than a level costs, and a depth that once took long would not be tried again. Depths measured once or
    twice do not count: the first rounds of a shape are slow, and outliers at great depth would tilt the line.
    """

    _last: dict[tuple[int, int], deque[float]] = field(default_factory=dict)
    _counts: dict[tuple[int, int], int] = field(default_factory=dict)
    _medians: dict[tuple[int, int], float] = field(default_factory=dict)
    _speculative: dict[int, deque[float]] = field(default_factory=dict)
    _seen_at: dict[tuple[int, int], int] = field(default_factory=dict)
    _num_rounds: int = 0

    def add(self, rows: int, depth: int, seconds: float) -> None:
        """Record one round that drafted `depth` tokens per row."""
        self._num_rounds += 1
        if depth and not self._is_fresh(rows, depth):
            self._last.pop((rows, depth), None)
            self._counts.pop((rows, depth), None)
        self._seen_at[rows, depth] = self._num_rounds
        last = self._last.setdefault((rows, depth), deque(maxlen=_WINDOW))
        last.append(seconds)
        self._counts[rows, depth] = self._counts.get((rows, depth), 0) + 1
        self._medians[rows, depth] = median(last)
        if depth:
            self._speculative.setdefault(rows, deque(maxlen=_WINDOW)).append(seconds)

    def known(self, rows: int, depth: int) -> bool:
        """Whether a round of this shape was ever measured."""
        return (rows, depth) in self._medians

    def _is_fresh(self, rows: int, depth: int) -> bool:
        """Whether a round of this shape was measured among the last ones."""
        return self._num_rounds - self._seen_at.get((rows, depth), -_FORGOTTEN_AFTER) < _FORGOTTEN_AFTER

    def step(self, rows: int) -> float:
        """Return the seconds of an autoregressive step; 1 before any was measured."""
        return self._medians.get((rows, 0), 1.0)

    def speculative(self, rows: int) -> float:
        """Compute the mean seconds of the last speculative rounds of any depth; a stall counts as two usual rounds.

        If too few rounds with this number of rows were measured, their cost in steps is taken from the nearest number.
        """
        seen = [r for r, last in self._speculative.items() if len(last) >= _FEWEST and self.known(r, 0)]
        if not seen:
            return self.step(rows) * (1.0 + _STEP_COST)
        nearest = min(seen, key=lambda r: abs(r - rows))
        last = self._speculative[nearest]
        longest = _OUTLIER * median(last)
        return fmean(min(seconds, longest) for seconds in last) * self.step(rows) / self.step(nearest)

    def line(self, rows: int) -> tuple[float, float]:
        """Fit (seconds at depth 0, seconds per level) of speculative rounds."""
        step = self.step(rows)
        seen = [
            (d, t, min(self._counts[r, d], _WINDOW))
            for (r, d), t in self._medians.items()
            if r == rows and d and self._counts[r, d] >= _FEWEST and self._is_fresh(r, d)
        ]
        weight = sum(w for _, _, w in seen)
        if not weight:
            return step, _STEP_COST * step
        mean_depth = sum(w * d for d, _, w in seen) / weight
        mean_time = sum(w * t for _, t, w in seen) / weight
        spread = sum(w * (d - mean_depth) ** 2 for d, _, w in seen) + _PRIOR_WEIGHT
        rise = sum(w * (d - mean_depth) * (t - mean_time) for d, t, w in seen) + _PRIOR_WEIGHT * _STEP_COST * step
        slope = max(_SMALLEST_COST * step, rise / spread)
        return mean_time - slope * mean_depth, slope

    def of(self, rows: int, depth: int) -> float:
        """Estimate the seconds of a round with this number of rows and this depth."""
        if depth == 0:
            return self.step(rows)
        start, slope = self.line(rows)
        return max(self.step(rows), start + slope * depth)
