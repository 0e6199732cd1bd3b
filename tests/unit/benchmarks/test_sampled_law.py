"""The two-sample test has power, and no more false alarms than it says."""

from __future__ import annotations

import random

import pytest

from benchmarks.sampled_law import same_law


def samples(rng: random.Random, weights: list[float], count: int = 256) -> list[list[list[int]]]:
    """Four prompts, answers of two independent tokens; the first is always even."""
    tokens = range(len(weights))
    return [[[rng.randrange(8), *rng.choices(tokens, weights)] for _ in range(count)] for _ in range(4)]


LAW = [8.0, 4.0, 2.0, 1.0, *[0.1] * 40]


def test_one_law_gives_p_values_spread_evenly() -> None:
    rng = random.Random(0)
    found = [same_law(samples(rng, LAW), samples(rng, LAW), 2)[1] for _ in range(200)]
    assert 0 < sum(p < 0.1 for p in found) < 40
    assert min(found) > 1e-5
    assert 0.35 < sum(found) / len(found) < 0.65


def test_a_tenth_moved_is_noticed_at_its_place() -> None:
    rng = random.Random(1)
    moved = [8.0, 4.0, 0.5, 2.5, *LAW[4:]]
    first, second = same_law(samples(rng, LAW), samples(rng, moved), 2)
    assert first > 1e-3
    assert second < 1e-6


def test_answers_that_end_early_are_an_outcome() -> None:
    full, short = [[[1, 2]] * 128], [[[1]] * 128]
    assert same_law(full, full, 2) == [1.0, 1.0]
    assert same_law(full, short, 2)[1] == pytest.approx(0.0, abs=1e-12)
