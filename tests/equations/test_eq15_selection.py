"""Eq. 15: keep the top K samples by value, ties by sample id; and the selectors it is compared with.

Oracles: worked by hand; for any input the definition "no sample left out comes before one kept".
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda_service.config.job import SelectionConfig, Selector
from eda_service.errors import DatasetInvalidError
from eda_service.selection.kinds import make_selector
from eda_service.selection.selector import num_kept

IDS = ["e", "b", "d", "a", "c"]
VALUES = [5.0, 1.0, 4.0, 4.0, 2.0]


def select(ids: list[str], values: list[float], method: Selector, fraction: float, *, seed: int) -> list[int]:
    return make_selector(SelectionConfig(method=method, keep_fraction=fraction)).keep(ids, values, seed=seed)


def kept(method: Selector, fraction: float, *, ids: list[str] | None = None, seed: int = 0) -> list[str]:
    names = ids or IDS
    values = [VALUES[IDS.index(name)] for name in names]
    return [names[i] for i in select(names, values, method, fraction, seed=seed)]


def test_top_fraction_by_hand() -> None:
    assert kept(Selector.PCA, 0.6) == ["e", "d", "a"]  # values 5, 4, 4, in the order of the input
    assert kept(Selector.PCA, 0.2) == ["e"]


def test_ties_go_by_id_whatever_the_order_of_the_input() -> None:
    assert set(kept(Selector.PCA, 0.4)) == {"e", "a"}  # a and d tie at 4; a comes first
    assert set(kept(Selector.PCA, 0.4, ids=IDS[::-1])) == {"e", "a"}
    assert set(kept(Selector.REVERSED, 0.6)) == {"b", "c", "a"}  # 1, 2, then the tie again by id


def test_reversed_keeps_the_smallest() -> None:
    assert kept(Selector.REVERSED, 0.4) == ["b", "c"]


def test_all_keeps_everything_whatever_the_fraction() -> None:
    assert kept(Selector.ALL, 0.2) == IDS


def test_random_is_a_seeded_draw_of_the_right_size() -> None:
    draws = [kept(Selector.RANDOM, 0.6, seed=seed) for seed in range(30)]
    assert all(len(draw) == 3 and draw == [name for name in IDS if name in draw] for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 3
    assert kept(Selector.RANDOM, 0.6, seed=1) == draws[1]
    assert set(kept(Selector.RANDOM, 0.6, ids=IDS[::-1], seed=1)) == set(draws[1])


def test_random_does_not_look_at_values() -> None:
    """Each of 5 samples is kept with probability 3/5, the least valuable one as well."""
    times = sum("b" in kept(Selector.RANDOM, 0.6, seed=seed) for seed in range(400))
    assert 190 < times < 290  # mean 240, standard deviation 9.8


@pytest.mark.parametrize(
    ("num_samples", "fraction", "wanted"),
    [(10, 0.5, 5), (5, 0.5, 3), (3, 0.5, 2), (1, 0.01, 1), (7, 1.0, 7), (9, 0.1, 1)],
)
def test_budget_is_rounded_half_up_and_never_empty(num_samples: int, fraction: float, wanted: int) -> None:
    assert num_kept(num_samples, fraction) == wanted


@pytest.mark.parametrize("method", list(Selector))
def test_no_samples_is_an_error(method: Selector) -> None:
    with pytest.raises(DatasetInvalidError, match="no samples to select from"):
        select([], [], method, 0.5, seed=0)


@given(
    values=st.lists(st.integers(0, 6).map(float), min_size=1, max_size=30),
    fraction=st.floats(0.01, 1.0),
    shuffle=st.randoms(use_true_random=False),
)
def test_definition(values: list[float], fraction: float, shuffle: object) -> None:
    """Every kept sample comes before every other in the order (value descending, id ascending)."""
    ids = [f"s{i:02d}" for i in range(len(values))]
    shuffle.shuffle(ids)  # type: ignore[attr-defined]
    chosen = select(ids, values, Selector.PCA, fraction, seed=0)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == num_kept(len(ids), fraction)
    place = [(-value, name) for value, name in zip(values, ids, strict=True)]
    left_out = [place[i] for i in range(len(ids)) if i not in chosen]
    assert not left_out or max(place[i] for i in chosen) < min(left_out)
