"""The short history of what deployments did: against traffic that is made up, whose rates are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from api.endpoint.metrics.counts import ModelCounts
from api.metrics.history import INTERVAL_S, NUM_POINTS, WINDOW_S, ServingHistory, Span
from api.metrics.throughput import Reading
from eda_service.jobstore import Deployment

TARGET = {"model": "org/model", "adapter": None, "revision": None, "dtype": "auto"}


class RecordedTraffic:
    """Deployments whose traffic a test plays, and a clock that it moves."""

    def __init__(self) -> None:
        self.now_s, self.counts = 1000.0, {"u": ModelCounts()}
        self.answers = True
        self.history = ServingHistory(self, self.read, clock=lambda: self.now_s)  # type: ignore[arg-type]  # all it asks

    def all(self) -> list[Deployment]:
        return [Deployment(name=uid, uid=uid, target=TARGET, base_draft=None, pack=None) for uid in self.counts]

    def read(self, deployments: Sequence[Deployment]) -> Mapping[str, Reading]:
        if not self.answers:
            return {}
        return {each.uid: Reading(each.uid, self.now_s, self.counts[each.uid] + ModelCounts()) for each in deployments}

    def play(self, seconds: float, tokens_per_s: float, *, accepted: float = 0.5, uid: str = "u") -> None:
        """Traffic at one speed, drafts of two tokens, each accepted with one chance; a look every interval."""
        for _ in range(round(seconds / INTERVAL_S)):
            self.now_s += INTERVAL_S
            counts, tokens = self.counts[uid], round(tokens_per_s * INTERVAL_S)
            first = round(tokens * accepted)
            new = ModelCounts(
                num_new_tokens=tokens, num_rounds=tokens, num_drafts=tokens,
                tried_at=[tokens, first] if tokens else [],
                accepted_at=[first, round(first * accepted)] if tokens else [],
            )  # fmt: skip
            self.counts[uid] = counts + new
            self.history.run_once()


def num_tokens(spans: list[Span]) -> float:
    return sum(each.tokens_per_s * (each.began_s - each.ended_s) for each in spans)


@pytest.fixture
def traffic() -> RecordedTraffic:
    made = RecordedTraffic()
    made.history.run_once()
    return made


def test_spans_are_the_traffic_that_there_was(traffic: RecordedTraffic) -> None:
    traffic.play(1200, 40.0)
    traffic.play(1200, 0.0)
    traffic.play(1200, 8.0, accepted=0.25)
    spans = traffic.history.spans("u", depth=2)
    assert sum(each.tokens_per_s * (each.began_s - each.ended_s) for each in spans) == pytest.approx(
        1200 * 48, rel=1e-3
    )
    assert (spans[0].began_s, spans[-1].ended_s) == (pytest.approx(3600), pytest.approx(0))
    early, idle, late = ([each for each in spans if low < each.ended_s < high - 120] for low, high in
                         ((2400, 3600), (1200, 2400), (0, 1200)))  # fmt: skip
    assert {round(each.tokens_per_s, 3) for each in early} == {40.0}
    assert {each.tokens_per_s for each in idle} == {0.0}
    assert {round(each.tokens_per_s, 3) for each in late} == {8.0}
    assert [each.acceptance_length for each in early[1:]] == pytest.approx([1 + 0.5 + 0.25] * len(early[1:]), abs=5e-3)
    assert {each.acceptance_length for each in idle} == {None}
    assert [each.acceptance_length for each in late[1:]] == pytest.approx(
        [1 + 0.25 + 0.25**2] * len(late[1:]), abs=0.01
    )
    assert traffic.history.tokens_per_s("u") == pytest.approx(8.0)


def test_it_is_bounded_however_long_it_goes_on(traffic: RecordedTraffic) -> None:
    traffic.play(WINDOW_S + 3600, 1.0)
    spans = traffic.history.spans("u", depth=2)
    assert len(spans) <= NUM_POINTS
    assert spans[0].began_s <= WINDOW_S
    kept = traffic.history._of("u")
    assert len(kept) <= WINDOW_S / INTERVAL_S + 2
    traffic.play(600, 0.0)
    assert len(traffic.history._of("u")) < len(kept)  # one entry for all of the quiet time


def test_counters_that_begin_anew_lose_nothing(traffic: RecordedTraffic) -> None:
    traffic.play(600, 10.0)
    traffic.counts["u"] = ModelCounts()  # the group was started again
    traffic.play(600, 10.0)
    spans = traffic.history.spans("u", depth=2)
    assert sum(each.tokens_per_s * (each.began_s - each.ended_s) for each in spans) == pytest.approx(12_000, rel=1e-3)
    assert all(
        each.acceptance_length is None or each.acceptance_length == pytest.approx(1.75, abs=0.01) for each in spans
    )


def test_what_is_not_known_is_not_said(traffic: RecordedTraffic) -> None:
    assert traffic.history.spans("u", depth=2) == []
    assert traffic.history.tokens_per_s("u") is None
    assert traffic.history.spans("nobody", depth=2) == []
    traffic.play(INTERVAL_S, 0.0)
    assert traffic.history.tokens_per_s("u") == 0.0
    traffic.answers = False
    traffic.play(600, 5.0)
    assert traffic.history.tokens_per_s("u") is None, "the last look that was answered is long ago"
    traffic.answers = True
    traffic.play(INTERVAL_S, 5.0)
    assert traffic.history.tokens_per_s("u") == pytest.approx(5.0, rel=0.01)


def test_what_was_before_the_first_look_does_not_count_and_what_is_gone_is_forgotten(traffic: RecordedTraffic) -> None:
    traffic.counts["old"] = ModelCounts(num_new_tokens=10_000_000, num_rounds=5)
    traffic.play(300, 1.0, uid="old")
    assert max(each.tokens_per_s for each in traffic.history.spans("old", depth=2)) == pytest.approx(1.0, rel=0.01)
    del traffic.counts["old"]
    traffic.history.run_once()
    assert traffic.history.spans("old", depth=2) == []
