"""Distributions and draws against sort-based and bisect-based oracles in plain Python.

Shapes: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

import bisect
import itertools

import numpy as np
import pytest
import torch

from eda_service.decoding.sampling import Truncation, distribution, draw, most_likely, nucleus


def nucleus_oracle(probs_V: np.ndarray, top_p: float) -> np.ndarray:
    """Sort, keep until the mass is reached, renormalise: in float64."""
    order = sorted(range(len(probs_V)), key=lambda i: (-probs_V[i], i))
    kept, mass = np.zeros(len(probs_V)), 0.0
    for token in order:
        if mass >= top_p:
            break
        kept[token] = probs_V[token]
        mass += probs_V[token]
    return kept / kept.sum()


def test_nucleus_by_hand() -> None:
    """0.5 + 0.3 = 0.8 reaches 0.7 with two tokens: 5/8 and 3/8."""
    probs_BV = torch.tensor([[0.1, 0.5, 0.3, 0.1]])
    torch.testing.assert_close(nucleus(probs_BV, torch.tensor([[0.7]])), torch.tensor([[0.0, 0.625, 0.375, 0.0]]))
    torch.testing.assert_close(nucleus(probs_BV, torch.tensor([[0.5]])), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(nucleus(probs_BV, torch.tensor([[1e-6]])), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("vocab_size", [50, 600, 3000])
@pytest.mark.parametrize("spread", [0.3, 2.0, 6.0])
def test_nucleus_against_sorting(vocab_size: int, spread: float) -> None:
    """Flat distributions need more than the 512 tokens tried first, peaked ones less; both in one call."""
    rng = torch.Generator().manual_seed(0)
    probs_BV = torch.softmax(spread * torch.randn(4, vocab_size, generator=rng), dim=-1)
    top_ps_B1 = torch.tensor([0.3, 0.8, 0.95, 0.99])[:, None]
    got_BV = nucleus(probs_BV, top_ps_B1).double().numpy()
    for row in range(4):
        wanted_V = nucleus_oracle(probs_BV[row].double().numpy(), float(top_ps_B1[row]))
        assert abs(int((got_BV[row] > 0).sum()) - int((wanted_V > 0).sum())) <= 1  # float32 sums at the edge
        np.testing.assert_allclose(got_BV[row], wanted_V, atol=2e-3 / vocab_size + 1e-6)


def test_nucleus_takes_any_leading_shape() -> None:
    probs_BLV = torch.softmax(torch.randn(2, 3, 700, generator=torch.Generator().manual_seed(0)), dim=-1)
    got_BLV = nucleus(probs_BLV, torch.tensor([0.5, 0.9])[:, None, None])
    for row, top_p in enumerate((0.5, 0.9)):
        for place in range(3):
            wanted_V = nucleus(probs_BLV[row, place][None], torch.tensor([[top_p]]))[0]
            assert torch.equal(got_BLV[row, place], wanted_V)


def test_distribution_is_softmax_of_logits_over_temperature() -> None:
    logits_BLV = torch.randn(3, 2, 20, generator=torch.Generator().manual_seed(0)) * 3
    got_BLV = distribution(logits_BLV, torch.tensor([0.5, 1.0, 1.7])).double().numpy()
    for row, temperature in enumerate((0.5, 1.0, 1.7)):
        scaled = np.exp(logits_BLV[row].double().numpy() / temperature)
        np.testing.assert_allclose(got_BLV[row], scaled / scaled.sum(-1, keepdims=True), rtol=1e-5)


def test_temperature_zero_is_one_hot_beside_sampled_rows() -> None:
    logits_BLV = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    got_BLV = distribution(logits_BLV, torch.tensor([0.0, 1.0]), Truncation(torch.tensor([0.4, 1.0])))
    assert torch.equal(got_BLV[0], torch.nn.functional.one_hot(logits_BLV[0].argmax(-1), 9).float())
    assert (got_BLV[1] > 0).all()


@pytest.mark.parametrize("top_ps", [None, [0.5, 0.9, 1.0]])
def test_the_short_cut_without_greedy_rows_gives_the_same(top_ps: list[float] | None) -> None:
    logits_BLV = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(0))
    temperatures_B = torch.tensor([0.5, 1.0, 1.7])
    kept = None if top_ps is None else Truncation(torch.tensor(top_ps))
    wanted_BLV = distribution(logits_BLV, temperatures_B, kept)
    assert torch.equal(distribution(logits_BLV, temperatures_B, kept, any_greedy=False), wanted_BLV)


def test_half_precision_logits_are_normalised_in_float32() -> None:
    logits_BLV = (torch.randn(1, 1, 5000, generator=torch.Generator().manual_seed(0)) * 2).to(torch.bfloat16)
    got_BLV = distribution(logits_BLV, torch.ones(1))
    assert got_BLV.dtype == torch.float32
    assert float(got_BLV.sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("spread", [1.0, 3.0, 8.0])
def test_a_row_without_nucleus_is_untouched_by_a_neighbour_s(spread: float) -> None:
    """top_p = 1 keeps every token, whether or not another row of the batch uses a nucleus."""
    logits_BLV = spread * torch.randn(2, 1, 2000, generator=torch.Generator().manual_seed(0))
    alone_LV = distribution(logits_BLV[:1], torch.ones(1), None)[0]
    beside_LV = distribution(logits_BLV, torch.ones(2), Truncation(torch.tensor([1.0, 0.5])))[0]
    assert torch.equal(alone_LV, beside_LV)


def test_draw_is_the_inverse_of_the_cumulative_distribution() -> None:
    weights = [0.0, 0.125, 0.0, 0.5, 0.375, 0.0]
    cumulative = list(itertools.accumulate(weights))
    uniforms = [0.0, 0.1, 0.124, 0.125, 0.3, 0.624, 0.625, 0.9, 0.99999994]
    got = draw(torch.tensor(weights).expand(len(uniforms), -1), torch.tensor(uniforms)).tolist()
    assert got == [bisect.bisect_right(cumulative, u) for u in uniforms]
    assert got == [1, 1, 1, 3, 3, 3, 4, 4, 4]


def test_draw_needs_no_normalisation() -> None:
    probs_V = torch.tensor([0.1, 0.2, 0.1])
    uniforms_B = torch.linspace(0, 0.999, 50)
    scaled = draw((probs_V * 7).expand(50, -1), uniforms_B)
    assert torch.equal(scaled, draw((probs_V / 0.4).expand(50, -1), uniforms_B))
    assert scaled.unique().tolist() == [0, 1, 2]


def test_draw_never_gives_a_token_of_probability_zero() -> None:
    """Also at the largest float32 below 1 and after a long cumulative sum."""
    probs_V = torch.rand(50_000, generator=torch.Generator().manual_seed(0)) ** 6
    probs_V[40_000:] = 0.0
    probs_V /= probs_V.sum()
    for uniform in (0.0, 0.5, 1 - 2**-24):
        assert probs_V[draw(probs_V[None], torch.tensor([uniform]))] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equal_logits_wins(dtype: torch.dtype) -> None:
    """bfloat16 has few values, so ties are common; greedy decoding must break them the same way everywhere."""
    logits_BLV = torch.randn(3, 5, 700, generator=torch.Generator().manual_seed(0)).to(dtype).round().clamp(-2, 2)
    best_BL = most_likely(logits_BLV)
    for row, position in itertools.product(range(3), range(5)):
        values = logits_BLV[row, position].tolist()
        assert values.count(max(values)) > 1
        assert int(best_BL[row, position]) == values.index(max(values))
