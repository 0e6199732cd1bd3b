"""Depth policies: each round drafts to the greatest depth, or to the depth that pays.

Drafting one more token pays while the probability that it is accepted, divided by the time it costs, exceeds the rate
of tokens without it. `Adaptive` learns both sides while it decodes: the time of a round by batch and depth, and the
probability of acceptance by depth, by request and by the draft's own confidence. Where confidence can be read for free,
a chain may grow to the greatest depth and ends at the first token after which going on does not pay; elsewhere one
depth is chosen for the whole round. Depth 0 is an autoregressive step, so speculation switches itself off where it
loses. A probe now and then (less often the more a probe costs) finds out when speculation would win again.

A request that brings a seed and samples keeps the full depth: a chain's draws depend on where rounds begin, so its
answer would change from run to run.

Decisions depend on drafted tokens and past rounds only, never on the target's coming answer, so the distribution of the
output does not depend on them.

Shapes: B rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from eda_service.decoding.live import LiveRequest, RunningEstimate
from eda_service.decoding.proposal import Confidence
from eda_service.decoding.round_costs import RoundCosts
from eda_service.decoding.rounds import RowResult


class Policy(Protocol):
    """Chooses the depth of each round and learns from its result."""

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        """Choose the depth of the next round, 0 to `most`."""
        ...

    def confidence(self, live: Sequence[LiveRequest], depth: int) -> Confidence | None:
        """Return a function of a token's draft probability that says whether a chain goes on after it; None: it always
        does.
        """
        ...

    def observe(
        self,
        live: Sequence[LiveRequest],
        depth: int,
        results: Sequence[RowResult],
        seconds: float,
        catch_up_seconds: float = 0.0,
    ) -> None:
        """Learn from a finished round: its seconds, and the seconds the draft took before it for positions it had
        missed.
        """
        ...


class AlwaysSpeculate:
    """Drafts to the greatest depth in every round; measurements of acceptance use it."""

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        """Return `most`."""
        return most

    def confidence(self, live: Sequence[LiveRequest], depth: int) -> Confidence | None:
        """Return None: a chain never ends early."""
        return None

    def observe(
        self,
        live: Sequence[LiveRequest],
        depth: int,
        results: Sequence[RowResult],
        seconds: float,
        catch_up_seconds: float = 0.0,
    ) -> None:
        """Do nothing."""


_CHANCE_MEMORY = 0.02
_REQUEST_MEMORY = 0.05
_REQUEST_PRIOR_WEIGHT = 8
_PRIOR = 0.7
_PROBE_EVERY = 30
_PROBE_SHARE = 0.02
_WARM_AFTER = 2
_LONGEST_PAUSE = 1000
_FULL_EVERY = 50
_BASELINE_EVERY = 100
_EARLY_BASELINES = (10, 30)
_NUM_BINS = 10


class Adaptive:
    """Drafts to the depth that pays by measured time and acceptance.

    Args:
        read_confidence: Whether to decide after every token of a chain if it goes on. Reading the decision waits for
            the device, which costs nothing on a CPU and more than it saves on a GPU. It has no effect on trees.
    """

    def __init__(self, *, read_confidence: bool = True) -> None:
        self._round_costs = RoundCosts()
        self._by_depth: list[RunningEstimate] = []
        self._hits = [RunningEstimate(0.3 + 0.06 * b) for b in range(_NUM_BINS)]
        self._next_hits = [RunningEstimate(0.3 + 0.06 * b) for b in range(_NUM_BINS)]
        self._accepted = RunningEstimate(1.0)
        self._rounds = 0
        self._read_confidence = read_confidence
        self._asked: list[list[float]] = []
        self._since_probe = 0
        self._pause = _PROBE_EVERY
        self._is_probe = False
        self._num_probes = 0
        self._num_drafted: Counter[tuple[int, int]] = Counter()
        self._rate = 0.0

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        """Choose the depth with the most expected tokens per second."""
        self._rounds += 1
        self._asked, self._is_probe = [], False
        while len(self._by_depth) < most:
            self._by_depth.append(RunningEstimate(_PRIOR))
        if any(_is_seeded(request) for request in live):
            return most
        rows = len(live)
        stale = self._rounds % _BASELINE_EVERY == 0 or self._rounds in _EARLY_BASELINES
        if stale or not self._round_costs.known(rows, 0):
            return 0
        autoregressive = rows / self._round_costs.step(rows)
        speculative, best = self._best(live, most)
        self._rate = max(autoregressive, speculative)
        if speculative > autoregressive:
            self._since_probe = 0
            return best
        self._since_probe += 1
        if self._since_probe < self._pause:
            return 0
        self._since_probe, self._is_probe = 0, True
        return 1

    def _best(self, live: Sequence[LiveRequest], most: int) -> tuple[float, int]:
        """Return (tokens per second, depth) of speculation: as measured where chains end themselves, or of the best
        depth.
        """
        if self._read_confidence:
            return self._tokens(live) / self._round_costs.speculative(len(live)), most
        rates = [
            (self._tokens(live, depth) / self._round_costs.of(len(live), depth), depth) for depth in range(1, most + 1)
        ]
        return max(rates)

    def _tokens(self, live: Sequence[LiveRequest], depth: int | None = None) -> float:
        """Compute the expected tokens of a round over all rows: at one depth, or as the last rounds measured (None)."""
        total = 0.0
        for request in live:
            total += 1.0
            if not request.params.speculate:
                continue
            own = request.acceptance
            ratio = 1.0 if own is None else own.value / max(1e-3, self._by_depth[0].value)
            if depth is None:
                total += self._accepted.value * ratio
                continue
            reach = 1.0
            for chance in self._by_depth[:depth]:
                reach *= min(0.99, chance.value * ratio)
                total += reach
        return total

    def confidence(self, live: Sequence[LiveRequest], depth: int) -> Confidence | None:
        """Return a function that ends a chain when the rows' probabilities of one more accepted token no longer pay for
        it.
        """
        if depth < 2 or not self._read_confidence or any(_is_seeded(request) for request in live):
            return None
        reach = [1.0 if request.params.speculate else 0.0 for request in live]
        needed = self._rate * self._round_costs.line(len(live))[1]
        to_the_end = self._rounds % _FULL_EVERY == 0

        def go_on(probability_B: Tensor) -> bool:
            values = probability_B.tolist()
            self._asked.append(values)
            gain = 0.0
            for i, value in enumerate(values):
                place = _bin(value)
                reach[i] *= self._hits[place].value
                gain += reach[i] * self._next_hits[place].value
            return to_the_end or gain > needed

        return go_on

    def observe(
        self,
        live: Sequence[LiveRequest],
        depth: int,
        results: Sequence[RowResult],
        seconds: float,
        catch_up_seconds: float = 0.0,
    ) -> None:
        """Learn the round's time and the probabilities of acceptance."""
        if self._is_probe:
            self._plan_next_probe(len(live), seconds + catch_up_seconds)
        proposed = max((result.num_proposed for result in results), default=0)
        drafted = min(depth, proposed)
        if not self._is_cold(len(live), drafted):
            self._round_costs.add(len(live), drafted, seconds)
        for i, (request, result) in enumerate(zip(live, results, strict=True)):
            if not result.num_proposed or not result.finite:
                continue
            accepted = len(result.token_ids) - 1
            if request.acceptance is None:
                request.acceptance = RunningEstimate(self._by_depth[0].value, _REQUEST_PRIOR_WEIGHT)
            request.acceptance.learn(accepted > 0, _REQUEST_MEMORY)
            self._accepted.learn(accepted, _CHANCE_MEMORY)
            for level in range(min(accepted + 1, drafted)):
                hit = level < accepted
                self._by_depth[level].learn(hit, _CHANCE_MEMORY)
                if level < len(self._asked):
                    self._hits[_bin(self._asked[level][i])].learn(hit, _CHANCE_MEMORY)
                if 0 < level <= len(self._asked):
                    self._next_hits[_bin(self._asked[level - 1][i])].learn(hit, _CHANCE_MEMORY)

    def _is_cold(self, rows: int, drafted: int) -> bool:
        """Whether the time of a round says nothing about the next rounds: a GPU loads kernels when a shape first needs
        them.

        Such rounds take 30 times as long. If they counted, they would switch speculation off for good.
        """
        if self._read_confidence or not drafted:
            return False
        self._num_drafted[rows, drafted] += 1
        return self._num_drafted[rows, drafted] <= _WARM_AFTER

    def _plan_next_probe(self, rows: int, seconds: float) -> None:
        """Plan the next probe: the more time a probe took, the later the next one, so that probes take about a fiftieth
        of the time. The first probes are unreliable.
        """
        step = self._round_costs.step(rows)
        self._num_probes += 1
        longest = _LONGEST_PAUSE if self._read_confidence else min(_LONGEST_PAUSE, _PROBE_EVERY * self._num_probes)
        self._pause = min(max(_PROBE_EVERY, round((seconds - step) / step / _PROBE_SHARE)), longest)


def _bin(probability: float) -> int:
    return min(_NUM_BINS - 1, int(probability * _NUM_BINS))


def _is_seeded(request: LiveRequest) -> bool:
    return request.params.seed is not None and request.params.temperature > 0
