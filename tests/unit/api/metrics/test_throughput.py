"""Rates between two readings, worked out by hand."""

from __future__ import annotations

from collections import Counter

from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.group_metrics import VariantMetrics
from api.metrics.throughput import Reading, rates_between, read_variants


def counts(tokens: int, drafts: int, accepted: int, ended: int) -> ModelCounts:
    return ModelCounts(
        num_new_tokens=tokens,
        num_drafts=drafts,
        num_accepted_tokens=accepted,
        finished=Counter({"stop": ended - 1, "length": 1}),
    )


def test_a_deployment_is_added_up_over_its_packs() -> None:
    variants = [
        VariantMetrics("a", "p@1", counts(10, 2, 3, 1), num_running=1, num_waiting=2),
        VariantMetrics("a", "p@2", counts(5, 1, 1, 2), num_running=2),
        VariantMetrics("b", None, counts(99, 0, 0, 1), num_running=7),
    ]
    found = read_variants("a", variants)
    assert (found.num_running, found.num_waiting) == (3, 2)
    assert (found.counts.num_new_tokens, found.counts.num_drafts, found.counts.finished.total()) == (15, 3, 3)


def test_rates_are_differences_over_time() -> None:
    before, now = Reading("a", 10.0, counts(100, 10, 20, 4)), Reading("a", 14.0, counts(180, 30, 50, 6))
    rates = rates_between(before, now)
    assert rates is not None
    assert (rates.tokens_per_s, rates.answers_per_s, rates.acceptance_length) == (20.0, 0.5, 2.5)


def test_no_rate_without_rounds_time_or_memory() -> None:
    one = Reading("a", 10.0, counts(100, 10, 20, 4))
    idle = rates_between(one, Reading("a", 12.0, counts(100, 10, 20, 4)))
    assert idle is not None
    assert idle.acceptance_length is None
    assert rates_between(one, one) is None
    assert rates_between(one, Reading("a", 12.0, counts(3, 1, 1, 1))) is None, "replicas began anew"
    assert rates_between(one, Reading("b", 12.0, counts(180, 30, 50, 6))) is None, "the name is another's now"
