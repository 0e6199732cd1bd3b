"""How deep a round drafts: always as deep as it may, or as deep as pays.

Drafting pays while the chance that one more token is accepted, over the time it costs, exceeds the rate at which tokens
come anyway. `Adaptive` learns both sides while it decodes: the time of a round by batch and depth, and the chance of
acceptance by depth, by request and by the draft's own confidence. Depth 0 is an autoregressive step, so speculation
switches itself off where it loses, and a probe now and then finds out when it would win again.

A request that brings a seed and samples keeps the full depth: a chain's draws depend on where rounds begin, so its
answer would change from run to run.

Decisions see drafted tokens and past rounds only, never the target's answer to come, so the output's law does not
depend on them.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from eda_service.decoding.live import Chance, LiveRequest
from eda_service.decoding.proposal import Confidence
from eda_service.decoding.rounds import RowResult


class Policy(Protocol):
    """Chooses the depth of each round and learns from what came of it."""

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        """Depth of the next round, 0 to `most`."""
        ...

    def confidence(self, live: Sequence[LiveRequest], depth: int) -> Confidence | None:
        """Whether a chain goes on after a token of this draft probability; None: always."""
        ...

    def observe(self, live: Sequence[LiveRequest], depth: int, results: Sequence[RowResult], seconds: float) -> None:
        """Learn from a finished round."""
        ...


class AlwaysSpeculate:
    """As deep as it may, every round: what acceptance is measured with."""

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        """`most`."""
        return most

    def confidence(self, live: Sequence[LiveRequest], depth: int) -> Confidence | None:
        """Never stops early."""
        return None

    def observe(self, live: Sequence[LiveRequest], depth: int, results: Sequence[RowResult], seconds: float) -> None:
        """Nothing to learn."""


_MEMORY = 0.1
_DEPTH_MEMORY = 0.02
_CONFIDENCE_MEMORY = 0.05
_REQUEST_MEMORY = 0.05
_REQUEST_PRIOR_WEIGHT = 8
_FORGET = 0.02
_PRIOR = 0.7
_STEP_COST = 0.1
_MOST_COUNTED = 20
_FEWEST_COUNTED = 3
_PRIOR_WEIGHT = 4.0
_PROBE_EVERY = 40
_BASELINE_EVERY = 100
_EARLY_BASELINES = (10, 30)
_NUM_BINS = 10
_OUTLIER = 3.0


@dataclass
class Clock:
    """Seconds of a round by (rows, depth), as running means; what was not seen is guessed from what was."""

    seconds: dict[tuple[int, int], float] = field(default_factory=dict)
    counts: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, rows: int, depth: int, seconds: float) -> None:
        """Take one round; a stall counts no more than three usual rounds."""
        known = self.seconds.get((rows, depth), seconds)
        count = self.counts[rows, depth] = self.counts.get((rows, depth), 0) + 1
        weight = max(_MEMORY, 1.0 / count)
        self.seconds[rows, depth] = known + weight * (min(seconds, _OUTLIER * known) - known)

    def known(self, rows: int, depth: int) -> bool:
        """Whether such a round was seen."""
        return (rows, depth) in self.seconds

    def of(self, rows: int, depth: int) -> float:
        """Seconds of such a round: depths above 0 lie on a line fitted through what was seen of them, by how often.

        A round costs a start and an equal part per level. A line learns from every depth at once; means of single
        depths differ by more than a level costs, and a depth that once looked dear would not be seen again. Depths
        seen once or twice do not count: first rounds of a kind are slow, and far ones would tilt the line.
        """
        step = self.seconds.get((rows, 0), 1.0)
        if depth == 0:
            return step
        seen = [
            (d, t, min(self.counts[r, d], _MOST_COUNTED))
            for (r, d), t in self.seconds.items()
            if r == rows and d and self.counts[r, d] >= _FEWEST_COUNTED
        ]
        weight = sum(w for _, _, w in seen)
        if not weight:
            return step * (1.0 + _STEP_COST * depth)
        mean_depth = sum(w * d for d, _, w in seen) / weight
        mean_time = sum(w * t for _, t, w in seen) / weight
        spread = sum(w * (d - mean_depth) ** 2 for d, _, w in seen) + _PRIOR_WEIGHT
        slope = sum(w * (d - mean_depth) * (t - mean_time) for d, t, w in seen) + _PRIOR_WEIGHT * _STEP_COST * step
        return max(step, mean_time + max(0.0, slope / spread) * (depth - mean_depth))


class Adaptive:
    """As deep as pays by measured time and acceptance.

    Args:
        read_confidence: Ask after every drafted token whether to go on. Reading the answer waits for the device, which
            costs nothing on a CPU and more than it saves on a GPU.
    """

    def __init__(self, *, read_confidence: bool = True) -> None:
        self._clock = Clock()
        self._by_depth: list[Chance] = []
        self._by_confidence = [Chance(0.5 + 0.04 * b) for b in range(_NUM_BINS)]
        self._rounds = 0
        self._read_confidence = read_confidence
        self._asked: list[list[float]] = []
        self._since_probe = 0

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        """The depth with the most expected tokens per second."""
        self._rounds += 1
        self._asked = []
        while len(self._by_depth) < most:
            self._by_depth.append(Chance(_PRIOR))
        if any(_is_seeded(request) for request in live):
            return most
        rows = len(live)
        stale = self._rounds % _BASELINE_EVERY == 0 or self._rounds in _EARLY_BASELINES
        if stale or not self._clock.known(rows, 0):
            return 0
        rates = [self._tokens(live, depth) / self._clock.of(rows, depth) for depth in range(most + 1)]
        best = max(range(most + 1), key=rates.__getitem__)
        self._since_probe = 0 if best else self._since_probe + 1
        if best:
            return best
        for request in live:
            if request.acceptance is not None:
                request.acceptance.value += _FORGET * (self._by_depth[0].value - request.acceptance.value)
        if self._since_probe >= _PROBE_EVERY:
            self._since_probe = 0
            return 1
        return 0

    def _tokens(self, live: Sequence[LiveRequest], depth: int) -> float:
        """Expected tokens of a round over all rows."""
        total = 0.0
        for request in live:
            reach, tokens = 1.0, 1.0
            if request.params.speculate:
                for chance in self._chances(request, depth):
                    reach *= chance
                    tokens += reach
            total += tokens
        return total

    def _chances(self, request: LiveRequest, depth: int) -> list[float]:
        """Chance of acceptance at each depth, given that the ones before were accepted."""
        own = request.acceptance
        ratio = 1.0 if own is None else own.value / max(1e-3, self._by_depth[0].value)
        return [min(0.99, chance.value * ratio) for chance in self._by_depth[:depth]]

    def confidence(self, live: Sequence[LiveRequest], depth: int) -> Confidence | None:
        """Stops a chain when the rows' chances of getting one further no longer pay for it."""
        if depth < 2 or not self._read_confidence or any(_is_seeded(request) for request in live):
            return None
        rows = len(live)
        reach = [1.0 if request.params.speculate else 0.0 for request in live]
        rate = self._tokens(live, depth) / self._clock.of(rows, depth)

        def go_on(probability_B: Tensor) -> bool:
            values = probability_B.tolist()
            self._asked.append(values)
            done = len(self._asked)
            for i, value in enumerate(values):
                reach[i] *= self._by_confidence[_bin(value)].value
            cost = self._clock.of(rows, done + 1) - self._clock.of(rows, done)
            return sum(reach) * self._by_depth[done].value > rate * max(0.0, cost)

        return go_on

    def observe(self, live: Sequence[LiveRequest], depth: int, results: Sequence[RowResult], seconds: float) -> None:
        """Learn times and chances."""
        proposed = max((result.num_proposed for result in results), default=0)
        drafted = min(depth, proposed)
        self._clock.add(len(live), drafted, seconds)
        for i, (request, result) in enumerate(zip(live, results, strict=True)):
            if not result.num_proposed or not result.finite:
                continue
            accepted = len(result.token_ids) - 1
            if request.acceptance is None:
                request.acceptance = Chance(self._by_depth[0].value, _REQUEST_PRIOR_WEIGHT)
            request.acceptance.learn(accepted > 0, _REQUEST_MEMORY)
            for level in range(min(accepted + 1, drafted)):
                self._by_depth[level].learn(level < accepted, _DEPTH_MEMORY)
                if level < len(self._asked):
                    self._by_confidence[_bin(self._asked[level][i])].learn(level < accepted, _CONFIDENCE_MEMORY)


def _bin(probability: float) -> int:
    return min(_NUM_BINS - 1, int(probability * _NUM_BINS))


def _is_seeded(request: LiveRequest) -> bool:
    return request.params.seed is not None and request.params.temperature > 0
