"""Verification: the rule on literal numbers, and the law of what comes out by a chi-square test that has power.

Oracles: probabilities worked out by hand; the target's own distribution (as arrays for `verify_sampled`, as
transformers computes it for the engine). Companion tests break the residual on purpose and must be caught by the same
statistic.

Shapes: B rows, K draft tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import speculative
from scipy import stats
from torch import Tensor
from transformers import PreTrainedModel

from eda_service.config.job import TreeConfig
from eda_service.decoding import rounds, verification
from eda_service.decoding.engine import run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.decoding.sampling import draw
from eda_service.decoding.verification import residual, verify_greedy, verify_sampled
from eda_service.drafts.draft import Draft
from eda_service.targets.loader import Target

_ACCEPTABLE = 1e-3
_REJECTED = 1e-6


def no_subtraction(target_probs_BV: Tensor, draft_probs_BV: Tensor) -> Tensor:
    """The classic mistake: correction tokens from p instead of max(p - q, 0)."""
    return target_probs_BV


def chi_square(observed_V: np.ndarray, probs_V: np.ndarray) -> float:
    """p-value of counts against probabilities, rare outcomes pooled."""
    expected_V = observed_V.sum() * probs_V / probs_V.sum()
    common_V = expected_V >= 5
    observed = np.append(observed_V[common_V], observed_V[~common_V].sum())
    expected = np.append(expected_V[common_V], expected_V[~common_V].sum())
    kept = expected > 0
    assert observed[~kept].sum() == 0, "outcomes of probability zero came out"
    assert kept.sum() >= 3
    return float(stats.chisquare(observed[kept], expected[kept]).pvalue)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_greedy_by_hand() -> None:
    target_ids_BK1 = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    draft_ids_BK = torch.tensor([[1, 2, 3], [1, 9, 3], [9, 2, 3], [1, 2, 9]])
    accepted_B, next_B = verify_greedy(target_ids_BK1, draft_ids_BK)
    assert accepted_B.tolist() == [3, 1, 0, 2]
    assert next_B.tolist() == [4, 2, 1, 3]


TARGET_V, DRAFT_V = [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]


@pytest.mark.parametrize(
    ("draft_id", "uniform", "accepted"),
    [
        (0, 0.999, 1),  # p/q = 2.5: always
        (1, 0.599, 1),  # p/q = 0.6
        (1, 0.601, 0),
        (2, 0.666, 1),  # p/q = 2/3
        (2, 0.667, 0),
    ],
)
def test_acceptance_rule_by_hand(draft_id: int, uniform: float, accepted: int) -> None:
    target_BK1V = torch.tensor([[TARGET_V, [0.0, 0.0, 1.0]]])
    accepted_B, next_B = verify_sampled(
        target_BK1V, torch.tensor([[DRAFT_V]]), torch.tensor([[draft_id]]), torch.tensor([[uniform, 0.5]])
    )
    # Rejected: max(p - q, 0) = (0.3, 0, 0), always token 0. Accepted: the bonus distribution, always token 2.
    assert (int(accepted_B), int(next_B)) == (accepted, 2 if accepted else 0)


def test_later_tokens_are_lost_after_a_rejection() -> None:
    certain = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    accepted_B, next_B = verify_sampled(
        certain, torch.full((1, 2, 2), 0.5), torch.tensor([[1, 0]]), torch.tensor([[0.5, 0.5, 0.5]])
    )
    assert (int(accepted_B), int(next_B)) == (0, 0)


def test_residual_by_hand_and_where_nothing_is_left() -> None:
    rest_BV = residual(torch.tensor([TARGET_V, TARGET_V]), torch.tensor([DRAFT_V, TARGET_V]))
    torch.testing.assert_close(rest_BV, torch.tensor([[0.3, 0.0, 0.0], TARGET_V]))


def test_a_token_the_target_never_gives_is_never_accepted() -> None:
    target_BK1V = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    draft_BKV = torch.tensor([[[1.0, 0.0]]])
    for uniform in (0.0, 1e-7, 0.5):
        accepted_B, next_B = verify_sampled(
            target_BK1V, draft_BKV, torch.tensor([[0]]), torch.tensor([[uniform, uniform]])
        )
        assert (int(accepted_B), int(next_B)) == (0, 1)


# --- the law of `verify_sampled` --------------------------------------------------------------------------------------

_NUM_ROWS, _NUM_DRAFT, _V = 100_000, 2, 7


def emitted_pairs() -> tuple[np.ndarray, np.ndarray]:
    """First and second emitted token of many rows (-1 where a round gave one), for a fixed target and draft."""
    rng = torch.Generator().manual_seed(0)
    target_K1V, draft_KV = known_distributions()
    target_BK1V = target_K1V.expand(_NUM_ROWS, -1, -1)
    draft_BKV = draft_KV.expand(_NUM_ROWS, -1, -1)
    draft_ids_BK = draw(draft_BKV, torch.rand(_NUM_ROWS, _NUM_DRAFT, generator=rng))
    uniforms_BK1 = torch.rand(_NUM_ROWS, _NUM_DRAFT + 1, generator=rng)
    accepted_B, next_B = verify_sampled(target_BK1V, draft_BKV, draft_ids_BK, uniforms_BK1)
    first_B = torch.where(accepted_B >= 1, draft_ids_BK[:, 0], next_B)
    second_B = torch.where(accepted_B >= 2, draft_ids_BK[:, 1], torch.where(accepted_B == 1, next_B, -1))
    assert 0.2 < float((accepted_B == 0).float().mean()) < 0.8
    return first_B.numpy(), second_B.numpy()


def known_distributions() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    target_K1V = torch.softmax(1.2 * torch.randn(_NUM_DRAFT + 1, _V, generator=rng), dim=-1)
    draft_KV = torch.softmax(1.2 * torch.randn(_NUM_DRAFT, _V, generator=rng), dim=-1)
    return target_K1V, draft_KV


def law_p_values() -> list[float]:
    first_B, second_B = emitted_pairs()
    target_K1V = known_distributions()[0].double().numpy()
    second_after = second_B[second_B >= 0]
    return [
        chi_square(np.bincount(first_B, minlength=_V), target_K1V[0]),
        chi_square(np.bincount(second_after, minlength=_V), target_K1V[1]),
    ]


def test_output_follows_the_target_s_distribution() -> None:
    assert min(law_p_values()) > _ACCEPTABLE


def test_a_wrong_residual_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "residual", no_subtraction)
    assert max(law_p_values()) < _REJECTED


def test_accepting_every_draft_token_is_caught() -> None:
    """The other classic mistake, played by acceptance draws of zero: the first token then follows the draft."""
    target_K1V, draft_KV = known_distributions()
    draft_BKV = draft_KV.expand(_NUM_ROWS, -1, -1)
    rng = torch.Generator().manual_seed(0)
    draft_ids_BK = draw(draft_BKV, torch.rand(_NUM_ROWS, _NUM_DRAFT, generator=rng))
    accepted_B, _ = verify_sampled(
        target_K1V.expand(_NUM_ROWS, -1, -1), draft_BKV, draft_ids_BK, torch.zeros(_NUM_ROWS, _NUM_DRAFT + 1)
    )
    assert bool((accepted_B == _NUM_DRAFT).all())
    counts_V = np.bincount(draft_ids_BK[:, 0].numpy(), minlength=_V)
    assert chi_square(counts_V, target_K1V[0].double().numpy()) < _REJECTED


def test_acceptance_probability_is_the_overlap_of_the_distributions() -> None:
    """P(first token accepted) = sum_v min(p_v, q_v)."""
    target_K1V, draft_KV = known_distributions()
    overlap = float(torch.minimum(target_K1V[0], draft_KV[0]).sum())
    rng = torch.Generator().manual_seed(2)
    draft_BKV = draft_KV.expand(_NUM_ROWS, -1, -1)
    draft_ids_BK = draw(draft_BKV, torch.rand(_NUM_ROWS, _NUM_DRAFT, generator=rng))
    uniforms_BK1 = torch.rand(_NUM_ROWS, _NUM_DRAFT + 1, generator=rng)
    accepted_B, _ = verify_sampled(target_K1V.expand(_NUM_ROWS, -1, -1), draft_BKV, draft_ids_BK, uniforms_BK1)
    assert float((accepted_B >= 1).float().mean()) == pytest.approx(overlap, abs=0.006)  # 4 standard deviations


# --- the law of the engine --------------------------------------------------------------------------------------------

_PROMPT = [30, 40, 50]
_NUM_REQUESTS = 3000


@torch.no_grad()
def exact_marginals(model: PreTrainedModel, temperature: float) -> list[np.ndarray]:
    """P of the 2nd and 3rd answer token after the prompt, by summing over every earlier token."""

    def after(contexts_BL: Tensor) -> Tensor:
        return torch.softmax(model(contexts_BL).logits[:, -1].double() / temperature, dim=-1)

    prompt_1L = torch.tensor([_PROMPT])
    first_V = after(prompt_1L)[0]
    size = len(first_V)
    ids_V1 = torch.arange(size)[:, None]
    second_VV = after(torch.cat([prompt_1L.expand(size, -1), ids_V1], dim=1))
    second_V = first_V @ second_VV
    third_V = torch.zeros(size, dtype=torch.double)
    for token in range(size):
        weight_V = first_V[token] * second_VV[token]
        contexts = torch.cat([prompt_1L.expand(size, -1), torch.full((size, 1), token), ids_V1], dim=1)
        third_V += weight_V @ after(contexts)
    return [second_V.numpy(), third_V.numpy()]


@pytest.fixture(scope="module")
def unstoppable(make_target: Callable[[str], Target]) -> Target:
    """The tiny Llama without stop tokens, so that every answer has its full length."""
    import dataclasses

    return dataclasses.replace(make_target("llama"), stop_token_ids=frozenset())


SHAPES: dict[str, dict[str, Any]] = {
    "chain": {"num_draft_tokens": 2},
    "tree": {"tree": TreeConfig(size=120, depth=2, width=30)},
}


def engine_p_values(target: Target, draft: Draft, marginals: list[np.ndarray], shape: str) -> list[float]:
    engine = speculative(target, draft, max_batch=500, max_tokens=40, **SHAPES[shape])
    for i in range(_NUM_REQUESTS):
        engine.submit(str(i), _PROMPT, SamplingParams(temperature=1.0, max_new_tokens=3, seed=i))
    done = run_to_end(engine)
    answers = np.array([[t for output in outputs for t in output.new_token_ids] for outputs in done.values()])
    accepted = np.mean([outputs[-1].stats.num_accepted_tokens for outputs in done.values()])
    assert 0.1 < accepted < 1.9
    return [
        chi_square(np.bincount(answers[:, place], minlength=len(probs)), probs)
        for place, probs in zip((1, 2), marginals, strict=True)
    ]


@pytest.fixture(scope="module")
def marginals(reference_model: Callable[[str], PreTrainedModel]) -> list[np.ndarray]:
    return exact_marginals(reference_model("llama"), 1.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_engine_at_t1_follows_the_target(
    shape: str, unstoppable: Target, make_fitted_draft: Callable[[str], Draft], marginals: list[np.ndarray]
) -> None:
    assert min(engine_p_values(unstoppable, make_fitted_draft("llama"), marginals, shape)) > _ACCEPTABLE


def test_engine_with_a_wrong_residual_is_caught(
    unstoppable: Target,
    make_fitted_draft: Callable[[str], Draft],
    marginals: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification, "residual", no_subtraction)
    assert min(engine_p_values(unstoppable, make_fitted_draft("llama"), marginals, "chain")) < _REJECTED


def test_tree_draws_that_prefer_likely_tokens_are_caught(
    unstoppable: Target,
    make_fitted_draft: Callable[[str], Draft],
    marginals: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same statistic for trees: half of the draws replaced by the argmax, and the law is gone."""

    def often_the_likeliest(probs: Tensor, uniforms: Tensor) -> Tensor:
        return torch.where(uniforms < 0.5, probs.argmax(-1), draw(probs, uniforms))

    monkeypatch.setattr(rounds, "draw", often_the_likeliest)
    assert min(engine_p_values(unstoppable, make_fitted_draft("llama"), marginals, "tree")) < _REJECTED
