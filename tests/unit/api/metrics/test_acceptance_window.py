"""Acceptance of served packs in the terms of their evaluation; oracle: the same drafts with chains of fixed depth."""

from __future__ import annotations

import random

import pytest

from api.endpoint.metrics.counts import ModelCounts
from api.metrics.acceptance import Window, chain_length

DEPTH = 5


def rounds(rng: random.Random, number: int, rates: list[float], depths: list[int]) -> tuple[list[int], list[int], int]:
    """Tries and acceptances by place of random rounds, and all accepted tokens."""
    tried, accepted, total = [0] * DEPTH, [0] * DEPTH, 0
    for _ in range(number):
        for place in range(rng.choice(depths)):
            tried[place] += 1
            if rng.random() >= rates[place]:
                break
            accepted[place] += 1
            total += 1
    return tried, accepted, total


def test_chains_of_changing_depth_give_the_length_of_fixed_ones() -> None:
    rng, rates = random.Random(0), [0.8, 0.7, 0.65, 0.6, 0.5]
    fixed = 1 + rounds(rng, 40_000, rates, [DEPTH])[2] / 40_000
    tried, accepted, total = rounds(rng, 40_000, rates, [1, 2, DEPTH])
    assert 1 + total / 40_000 < fixed - 0.3  # the plain mean would look like a fall
    assert chain_length(tried, accepted, DEPTH) == pytest.approx(fixed, abs=0.03)


def test_places_that_are_never_drafted_count_as_the_last_that_is() -> None:
    assert chain_length([100, 50], [50, 25], 3) == 1 + 0.5 + 0.25 + 0.125
    assert chain_length([100, 2], [50, 0], 2) == 1 + 0.5 + 0.25
    assert chain_length([], [], 3) == 1.0


def test_only_the_newest_rounds_count_and_too_few_are_not_judged() -> None:
    window = Window()
    settings = {"min_rounds": 100, "window_s": 60.0, "depth": 1}
    assert window.acceptance_length(**settings) is None  # type: ignore[arg-type]
    window.add(0.0, ModelCounts(num_rounds=1000, tried_at=[1000], accepted_at=[900]))
    assert window.acceptance_length(**settings) is None  # type: ignore[arg-type]
    window.add(10.0, ModelCounts(num_rounds=1050, tried_at=[1050], accepted_at=[910]))
    assert window.acceptance_length(**settings) is None  # type: ignore[arg-type]
    window.add(20.0, ModelCounts(num_rounds=1100, tried_at=[1100], accepted_at=[920]))
    assert window.acceptance_length(**settings) == pytest.approx(1.2)  # type: ignore[arg-type]
    window.add(30.0, ModelCounts(num_rounds=1200, tried_at=[1200], accepted_at=[1020]))
    assert window.acceptance_length(**settings) == pytest.approx(2.0)  # type: ignore[arg-type]


def test_rounds_older_than_the_window_do_not_help() -> None:
    window = Window()
    for at_s in range(0, 200, 10):
        window.add(float(at_s), ModelCounts(num_rounds=at_s * 2, tried_at=[at_s * 2], accepted_at=[at_s]))
    assert window.acceptance_length(min_rounds=120, window_s=60.0, depth=1) == pytest.approx(1.5)
    assert window.acceptance_length(min_rounds=160, window_s=60.0, depth=1) is None


def test_totals_that_begin_again_begin_a_new_window() -> None:
    window = Window()
    for at_s, tried in ((0.0, 0), (1.0, 500), (2.0, 10), (3.0, 110)):
        window.add(at_s, ModelCounts(num_rounds=tried, tried_at=[tried], accepted_at=[tried // 2]))
    assert window.acceptance_length(min_rounds=100, window_s=60.0, depth=1) == pytest.approx(1.5)
    assert window.acceptance_length(min_rounds=101, window_s=60.0, depth=1) is None


def test_where_drafting_is_switched_off_a_few_rounds_that_draft_are_judged_and_hardly_any_are_not() -> None:
    for drafts, wanted in ((10, None), (50, pytest.approx(1.2))):
        window = Window()
        window.add(0.0, ModelCounts(num_rounds=0))
        window.add(1.0, ModelCounts(num_rounds=500, tried_at=[drafts], accepted_at=[drafts // 5]))
        assert window.acceptance_length(min_rounds=500, window_s=60.0, depth=1) == wanted
