"""How deep a round drafts: always as deep as it may, or as deep as pays.

Drafting pays while the chance that one more token is accepted, over the time it costs, exceeds the rate at which tokens
come anyway. `Adaptive` learns both sides while it decodes: the time of a round by batch and depth, and the chance of
acceptance by depth, by request and by the draft's own confidence. Where confidence can be read for free, a chain may
grow to the longest and ends at the first token after which going on does not pay; elsewhere one depth is chosen for
the whole round. Depth 0 is an autoregressive step, so speculation switches itself off where it loses, and a probe now
and then, the rarer the dearer probes are, finds out when it would win again.

A request that brings a seed and samples keeps the full depth: a chain's draws depend on where rounds begin, so its
answer would change from run to run.

Decisions see drafted tokens and past rounds only, never the target's answer to come, so the output's law does not
depend on them.

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
    """Chooses the depth of each round and learns from what came of it."""

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        """Depth of the next round, 0 to `most`."""
        ...

    def confidence(self, live: Sequence[LiveRequest], depth: int) -> Confidence | None:
        """Whether a chain goes on after a token of this draft probability; None: always."""
        ...

    def observe(
        self,
        live: Sequence[LiveRequest],
        depth: int,
        results: Sequence[RowResult],
        seconds: float,
        catch_up_seconds: float = 0.0,
    ) -> None:
        """Learn from a finished round: what it took, and what the draft took before it to see what it had missed."""
        ...


class AlwaysSpeculate:
    """As deep as it may, every round: what acceptance is measured with."""

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        """`most`."""
        return most

    def confidence(self, live: Sequence[LiveRequest], depth: int) -> Confidence | None:
        """Never stops early."""
        return None

    def observe(
        self,
        live: Sequence[LiveRequest],
        depth: int,
        results: Sequence[RowResult],
        seconds: float,
        catch_up_seconds: float = 0.0,
    ) -> None:
        """Nothing to learn."""


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
    """As deep as pays by measured time and acceptance.

    Args:
        read_confidence: Ask after every token of a chain whether to go on. Reading the answer waits for the device,
            which costs nothing on a CPU and more than it saves on a GPU; trees cannot be asked.
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
        """The depth with the most expected tokens per second."""
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
        """(tokens per second, depth) of speculation: as measured where chains end themselves, or of the best depth."""
        if self._read_confidence:
            return self._tokens(live) / self._round_costs.speculative(len(live)), most
        rates = [
            (self._tokens(live, depth) / self._round_costs.of(len(live), depth), depth) for depth in range(1, most + 1)
        ]
        return max(rates)

    def _tokens(self, live: Sequence[LiveRequest], depth: int | None = None) -> float:
        """Expected tokens of a round over all rows: at one depth, or as rounds went lately."""
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
        """Ends a chain when the rows' chances of getting one further no longer pay for it."""
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
        """Learn times and chances."""
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
        """Whether a round says nothing about the next ones: a GPU loads kernels when a shape first needs them.

        Such rounds take 30 times as long. Believed, they would switch speculation off for good.
        """
        if self._read_confidence or not drafted:
            return False
        self._num_drafted[rows, drafted] += 1
        return self._num_drafted[rows, drafted] <= _WARM_AFTER

    def _plan_next_probe(self, rows: int, seconds: float) -> None:
        """The dearer a probe was, the later the next: they may take a fiftieth of the time. First ones tell little."""
        step = self._round_costs.step(rows)
        self._num_probes += 1
        longest = _LONGEST_PAUSE if self._read_confidence else min(_LONGEST_PAUSE, _PROBE_EVERY * self._num_probes)
        self._pause = min(max(_PROBE_EVERY, round((seconds - step) / step / _PROBE_SHARE)), longest)


def _bin(probability: float) -> int:
    return min(_NUM_BINS - 1, int(probability * _NUM_BINS))


def _is_seeded(request: LiveRequest) -> bool:
    return request.params.seed is not None and request.params.temperature > 0
