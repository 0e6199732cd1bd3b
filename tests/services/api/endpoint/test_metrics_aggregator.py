"""A group's sum: reports of several replicas, engines that go, and a real endpoint's own numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from live_endpoint import LiveEndpoint, live_endpoint, make_pair

from api.endpoint.metrics.aggregator import MetricsAggregator
from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.group_metrics import GROUP_METRICS, GroupMetrics, LoadedModel, Report, VariantMetrics
from eda_service.decoding.engine import Engine
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.targets.loader import Target


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def counted(tokens: int, accepted_at: list[int]) -> ModelCounts:
    counts = ModelCounts(num_new_tokens=tokens, num_rounds=10, accepted_at=accepted_at)
    counts.finished["stop"] = tokens
    counts.request_s.observe(0.4, tokens)
    return counts


def report(replica: str, engine: str, tokens: int, *, running: int = 1, swaps: int = 0) -> Report:
    variant = VariantMetrics("a", "p@1", counted(tokens, [3, 1]), num_running=running, num_waiting=2)
    loaded = [LoadedModel("a", "p@1", "d@1", 100, 7)]
    return Report(replica, {engine: [variant]}, loaded, {"a": swaps}, 1000)


def only(found: GroupMetrics) -> VariantMetrics:
    (variant,) = found.variants
    return variant


def test_the_sum_of_two_replicas_also_when_a_report_comes_twice() -> None:
    aggregator = MetricsAggregator(Clock())
    for _ in range(2):
        aggregator.put(report("r1", "e1", 5, swaps=1))
        aggregator.put(report("r2", "e2", 7))
    found = aggregator.read()
    variant = only(found)
    assert variant.counts.num_new_tokens == variant.counts.finished["stop"] == variant.counts.request_s.num == 12
    assert variant.counts.accepted_at == [6, 2]
    assert (variant.num_running, variant.num_waiting) == (2, 4)
    assert (found.num_replicas, found.base_bytes, found.swaps) == (2, 2000, {"a": 1})
    assert found.loaded == [LoadedModel("a", "p@1", "d@1", 200, 14, num_replicas=2)]


def test_counters_of_what_is_gone_stay_and_its_gauges_go_even_after_hours() -> None:
    clock = Clock()
    aggregator = MetricsAggregator(clock)
    aggregator.put(report("r1", "e1", 5, swaps=3))
    for later_s in (20.0, 7200.0, 7200.0):
        clock.now += later_s
        aggregator.put(report("r2", "e2", 7))
        found = aggregator.read()
        assert only(found).counts.num_new_tokens == 12
        assert (only(found).num_running, found.num_replicas, found.base_bytes) == (1, 1, 1000)
        assert found.swaps == {"a": 3}
    clock.now += 60.0
    gone = aggregator.read()
    assert (only(gone).num_running, gone.num_replicas, gone.loaded, gone.base_bytes) == (0, 0, [], None)
    assert only(gone).counts.num_new_tokens == 12


def test_a_new_engine_in_the_same_replica_does_not_take_the_old_ones_counts_away() -> None:
    aggregator = MetricsAggregator(Clock())
    aggregator.put(report("r1", "e1", 5))
    aggregator.put(report("r1", "e2", 2))
    assert only(aggregator.read()).counts.num_new_tokens == 7


def test_what_travels_is_what_was_counted() -> None:
    aggregator = MetricsAggregator(Clock())
    aggregator.put(report("r1", "e1", 5))
    assert GROUP_METRICS.validate_json(GROUP_METRICS.dump_json(aggregator.read())) == aggregator.read()


@pytest.fixture
def endpoint(tiny_target: Target, make_fitted_draft: Callable[[str], Draft]) -> Iterator[LiveEndpoint]:
    head = DraftHead(tiny_target.lm_head, None)
    engine = Engine(tiny_target, make_fitted_draft("llama"), head, num_draft_tokens=4, max_batch=4, max_tokens=256)
    with live_endpoint([make_pair("tiny", tiny_target, engine)]) as opened:
        yield opened


def test_a_real_endpoint_counts_what_it_answered(endpoint: LiveEndpoint) -> None:
    body = {"model": "tiny", "prompt": [[8, 9], [10, 11, 12, 13]], "max_tokens": 30, "temperature": 0}
    answers = [httpx.post(f"{endpoint.url}/v1/completions", json=body, timeout=60).json() for _ in range(2)]
    endpoint.wait_idle()
    found = GROUP_METRICS.validate_json(httpx.get(f"{endpoint.url}/internal/metrics").content)
    counts = only(found).counts
    spoken = [answer["metrics"]["speculative_decoding"] for answer in answers]
    assert counts.num_new_tokens == sum(answer["usage"]["completion_tokens"] for answer in answers)
    assert counts.num_rounds == sum(each["num_spec_steps"] for each in spoken)
    assert counts.num_accepted_tokens == sum(each["num_accepted_draft_tokens"] for each in spoken) > 0
    # In a chain, a place is tried when the one before it was accepted, or when it is the first.
    assert counts.tried_at[0] == counts.num_drafts
    assert counts.tried_at[1:] <= counts.accepted_at[: len(counts.tried_at) - 1]
    assert all(accepted <= tried for accepted, tried in zip(counts.accepted_at, counts.tried_at, strict=False))
    assert counts.decode_s.num == counts.request_s.num == 4
    assert 0 < counts.decode_s.total < counts.request_s.total
    assert (found.num_replicas, only(found).num_running) == (1, 0)
    assert found.loaded == [LoadedModel("", None, "tiny@1", 20, 3)]


def test_a_name_made_again_is_counted_apart() -> None:
    """One replica served a name for a deployment that is gone and serves it for the one that has it now."""
    aggregator = MetricsAggregator(Clock())
    variants = [VariantMetrics(uid, "p@1", counted(tokens, [1])) for uid, tokens in (("old", 5), ("new", 2))]
    aggregator.put(Report("r1", {"e1": variants}, [LoadedModel("new", "p@1", "d@1")], {"old": 3}, None))
    found = aggregator.read()
    assert {each.uid: each.counts.num_new_tokens for each in found.variants} == {"old": 5, "new": 2}
    assert ([each.uid for each in found.loaded], found.swaps) == (["new"], {"old": 3})
