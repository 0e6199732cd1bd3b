"""Counters and histograms of a served model's requests; they only grow.

One engine thread writes and any thread reads: a reader may see a request half counted, never a torn number. Names and
buckets follow vLLM's metrics, so that dashboards made for vLLM fit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the API reads counts too, and has no torch
    from eda_service.decoding.request import StepOutput

FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
INTER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
REQUEST_BUCKETS_S = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
)


@dataclass
class Histogram:
    """Observations by bucket.

    Attributes:
        bounds: Inclusive upper bounds; one more bucket counts larger values.
        counts: Observations per bucket, not cumulative.
        total: Sum of all observations.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    @property
    def num(self) -> int:
        """Number of observations so far."""
        return sum(self.counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Add an observation, or several equal ones."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.bounds, _added(self.counts, other.counts), self.total + other.total)


@dataclass
class ModelCounts:
    """Totals of one served model under one pack.

    Attributes:
        num_drafts: Number of rounds that proposed tokens.
        accepted_at: Accepted draft tokens by their position in the draft.
        tried_at: Draft tokens by their position, counted only where all earlier ones were accepted.
        finished: Ended requests by the reason of the end.
        inter_token_s: Seconds per token: a round that gave three tokens counts three times a third of the time since
            the last one.
        decode_s: Seconds from a request's first token to its end.
        request_s: Seconds from submission to the end.
    """

    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    num_rounds: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    accepted_at: list[int] = field(default_factory=list)
    tried_at: list[int] = field(default_factory=list)
    finished: Counter[str] = field(default_factory=Counter)
    queue_s: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_BUCKETS_S))
    prefill_s: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_BUCKETS_S))
    first_token_s: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_BUCKETS_S))
    inter_token_s: Histogram = field(default_factory=lambda: Histogram(INTER_TOKEN_BUCKETS_S))
    decode_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_BUCKETS_S))
    request_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_BUCKETS_S))

    def __add__(self, other: ModelCounts) -> ModelCounts:
        # Reads each field once and whole, so that the engine's thread may go on counting meanwhile.
        return ModelCounts(
            num_prompt_tokens=self.num_prompt_tokens + other.num_prompt_tokens,
            num_new_tokens=self.num_new_tokens + other.num_new_tokens,
            num_rounds=self.num_rounds + other.num_rounds,
            num_drafts=self.num_drafts + other.num_drafts,
            num_draft_tokens=self.num_draft_tokens + other.num_draft_tokens,
            num_accepted_tokens=self.num_accepted_tokens + other.num_accepted_tokens,
            accepted_at=_added(self.accepted_at, other.accepted_at),
            tried_at=_added(self.tried_at, other.tried_at),
            finished=Counter(dict(self.finished)) + Counter(dict(other.finished)),
            queue_s=self.queue_s + other.queue_s,
            prefill_s=self.prefill_s + other.prefill_s,
            first_token_s=self.first_token_s + other.first_token_s,
            inter_token_s=self.inter_token_s + other.inter_token_s,
            decode_s=self.decode_s + other.decode_s,
            request_s=self.request_s + other.request_s,
        )


def _added(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip_longest(list(one), list(other), fillvalue=0)]


class RequestTrace:
    """Follows one request and adds its numbers to its model's totals.

    Args:
        counts: Totals of the request's model.
        begun_s: Time of submission to the runner, by `time.perf_counter`.
        queued_s: Time at which the request reached the engine.

    Attributes:
        is_running: Whether the request has its first token, and so a slot.
        reason: Reason why the request was cancelled, if its own stream ended it.
    """

    def __init__(self, counts: ModelCounts, begun_s: float, queued_s: float) -> None:
        self._counts, self._begun_s, self._queued_s = counts, begun_s, queued_s
        self._last_s = self._first_s = begun_s
        self.is_running = False
        self.reason: str | None = None
        self._num_rounds = self._num_draft_tokens = self._num_accepted_tokens = 0

    def add(self, output: StepOutput, now_s: float) -> None:
        """Count the result of one step."""
        self._count_round(output)
        num_new = len(output.new_token_ids)
        if not self.is_running and output.stats.prefill_s:
            self._count_prefill(output, now_s)
        elif num_new:
            self._counts.inter_token_s.observe((now_s - self._last_s) / num_new, num_new)
            self._last_s = now_s
        self._counts.num_new_tokens += num_new
        if output.finish_reason is not None:
            self._counts.finished[self.reason or output.finish_reason] += 1
            self._counts.request_s.observe(now_s - self._begun_s)
            if self.is_running:
                self._counts.decode_s.observe(now_s - self._first_s)

    def _count_prefill(self, output: StepOutput, now_s: float) -> None:
        self.is_running = True
        self._counts.num_prompt_tokens += output.stats.num_prompt_tokens
        stats = output.stats
        self._counts.queue_s.observe(self._queued_s - self._begun_s + stats.queue_s)
        self._counts.prefill_s.observe(stats.prefill_s)
        # A first token crosses over with the round after it; that round's own tokens are timed from here.
        self._last_s = self._first_s = self._queued_s + stats.queue_s + stats.prefill_s
        if output.new_token_ids:
            self._counts.first_token_s.observe(now_s - self._begun_s)

    def _count_round(self, output: StepOutput) -> None:
        """Count one round from its own output: a request's `stats` object may already hold a later step's totals."""
        stats, counts = output.stats, self._counts
        drafted = stats.num_draft_tokens - self._num_draft_tokens
        accepted = stats.num_accepted_tokens - self._num_accepted_tokens
        counts.num_rounds += stats.num_rounds - self._num_rounds
        counts.num_drafts += drafted > 0
        counts.num_draft_tokens += drafted
        counts.num_accepted_tokens += accepted
        counts.accepted_at += [0] * (accepted - len(counts.accepted_at))
        for place in range(accepted):
            counts.accepted_at[place] += 1
        num_tried = min(accepted + 1, drafted)
        counts.tried_at += [0] * (num_tried - len(counts.tried_at))
        for place in range(num_tried):
            counts.tried_at[place] += 1
        self._num_rounds, self._num_draft_tokens = stats.num_rounds, stats.num_draft_tokens
        self._num_accepted_tokens = stats.num_accepted_tokens
