"""The engine with draft trees: T=0 equals transformers, T>0 equals the same seed without a draft, and the law at T=1.

Shapes: N requests, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import DraftMaker, TargetMaker, answer, decode, make_prompts, speculative
from test_engine import FAMILIES, reference_answer
from test_verification import chi_square, exact_marginals
from transformers import PreTrainedModel

from eda_service.config import TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.model.draft import Draft
from eda_service.target.loader import Target

SMALL = TreeConfig(size=7, depth=3, width=3)
TREES = {
    "small": SMALL,
    "paper": TreeConfig(size=60, depth=5, width=10),
    "wide": TreeConfig(size=4, depth=1, width=6),
    "one": TreeConfig(size=1, depth=1, width=1),
    "whole pool": TreeConfig(size=512, depth=3, width=4),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers(
    family: str,
    make_target: TargetMaker,
    make_fitted_draft: DraftMaker,
    reference_model: Callable[[str], PreTrainedModel],
) -> None:
    """Requests join and leave in nearly every round, paths are compacted, siblings are accepted."""
    target, prompts = make_target(family), make_prompts(10)
    caps = [1, 2, 3, 5, 8, 13, 21, 30, 30, 30]
    engine = speculative(target, make_fitted_draft(family), tree=SMALL)
    for i, (ids, cap) in enumerate(zip(prompts, caps, strict=True)):
        engine.submit(str(i), ids, SamplingParams(max_new_tokens=cap))
    done = run_to_end(engine)
    stats = [outputs[-1].stats for outputs in done.values()]
    accepted = sum(each.num_accepted_tokens for each in stats)
    assert 0 < accepted < 3 * sum(each.num_rounds for each in stats)
    assert all(each.num_draft_tokens == SMALL.size * each.num_rounds for each in stats)
    for i, (ids, cap) in enumerate(zip(prompts, caps, strict=True)):
        assert answer(done[str(i)]) == reference_answer(reference_model(family), target, ids, cap)


@pytest.mark.parametrize("settings", [{"num_draft_tokens": 5}, {"tree": SMALL}], ids=["chain", "tree"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_hundred_prompts_are_token_identical(
    family: str, settings: dict[str, Any], make_target: TargetMaker, make_fitted_draft: DraftMaker
) -> None:
    target, prompts = make_target(family), make_prompts(200, seed=9)
    params = [SamplingParams(max_new_tokens=24)] * 200
    plain = decode(Engine(target, max_batch=32, max_tokens=120), prompts, params)
    assert decode(speculative(target, make_fitted_draft(family), max_batch=25, **settings), prompts, params) == plain


@pytest.mark.parametrize("name", TREES)
def test_every_tree_is_lossless(name: str, make_target: TargetMaker, make_fitted_draft: DraftMaker) -> None:
    target, prompts = make_target("qwen3"), make_prompts(5, seed=3)
    params = [SamplingParams(max_new_tokens=23)] * 5
    got = decode(speculative(target, make_fitted_draft("qwen3"), tree=TREES[name]), prompts, params)
    assert got == decode(Engine(target, max_batch=4, max_tokens=120), prompts, params)


def test_a_tree_accepts_more_than_a_chain_of_its_depth(make_target: TargetMaker, make_fitted_draft: DraftMaker) -> None:
    target, draft, prompts = make_target("llama"), make_fitted_draft("llama"), make_prompts(16, seed=5)
    lengths = []
    for settings in ({"num_draft_tokens": 3}, {"tree": TreeConfig(size=24, depth=3, width=5)}):
        engine = speculative(target, draft, **settings)
        for i, ids in enumerate(prompts):
            engine.submit(str(i), ids, SamplingParams(max_new_tokens=40))
        stats = [outputs[-1].stats for outputs in run_to_end(engine).values()]
        lengths.append(sum(each.num_accepted_tokens for each in stats) / sum(each.num_rounds for each in stats))
    assert lengths[1] > lengths[0] * 1.1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seeded_answer_is_the_same_with_a_tree_and_without_a_draft(
    family: str, make_target: TargetMaker, make_fitted_draft: DraftMaker
) -> None:
    """Both spend one draw per token of the answer; temperatures, nuclei and greedy rows mixed in one batch."""
    target, prompts = make_target(family), make_prompts(9, seed=6)
    params = [
        SamplingParams(temperature=temperature, top_p=top_p, max_new_tokens=25, seed=i)
        for i, (temperature, top_p) in enumerate([(1.0, 1.0), (0.7, 0.9), (0.0, 1.0)] * 3)
    ]
    plain = decode(Engine(target, max_batch=4, max_tokens=120), prompts, params)
    assert decode(speculative(target, make_fitted_draft(family), tree=SMALL), prompts, params) == plain
    assert (
        plain[0]
        != decode(Engine(target, max_batch=4, max_tokens=120), prompts[:1], [dataclasses.replace(params[0], seed=99)])[
            0
        ]
    )


@pytest.fixture(scope="module")
def unstoppable(make_target: TargetMaker) -> Target:
    return dataclasses.replace(make_target("llama"), stop_token_ids=frozenset())


def engine_p_values(target: Target, draft: Draft, marginals: list[np.ndarray]) -> list[float]:
    engine = speculative(target, draft, tree=TreeConfig(size=120, depth=2, width=30), max_batch=500)
    for i in range(3000):
        engine.submit(str(i), [30, 40, 50], SamplingParams(temperature=1.0, max_new_tokens=3, seed=i))
    done = run_to_end(engine)
    answers = np.array([answer(outputs) for outputs in done.values()])
    accepted = np.mean([outputs[-1].stats.num_accepted_tokens for outputs in done.values()])
    assert 0.3 < accepted < 1.9
    return [
        chi_square(np.bincount(answers[:, place], minlength=len(probs)), probs)
        for place, probs in zip((1, 2), marginals, strict=True)
    ]


@pytest.fixture(scope="module")
def marginals(reference_model: Callable[[str], PreTrainedModel]) -> list[np.ndarray]:
    return exact_marginals(reference_model("llama"), 1.0)


def test_at_t1_the_tokens_follow_the_target(
    unstoppable: Target, make_fitted_draft: DraftMaker, marginals: list[np.ndarray]
) -> None:
    assert min(engine_p_values(unstoppable, make_fitted_draft("llama"), marginals)) > 1e-3


# --- recursive rejection, spelt out -----------------------------------------------------------------------------------

_NUM_DRAWS = 60_000


def rejected_recursively(probs_V: np.ndarray, children: list[int], rng: np.random.Generator, *, residual: bool) -> int:
    """One token by trying the children in turn, each a proposal of probability one."""
    rest_V = probs_V.copy()
    for child in children:
        if rng.random() < rest_V[child] / rest_V.sum():
            return child
        if residual:
            rest_V[child] = 0.0
    return int(rng.choice(len(rest_V), p=rest_V / rest_V.sum()))


def law(*, residual: bool) -> float:
    rng = np.random.default_rng(0)
    probs_V = np.array([0.05, 0.4, 0.1, 0.25, 0.05, 0.15])
    tokens = [rejected_recursively(probs_V, [1, 3, 0], rng, residual=residual) for _ in range(_NUM_DRAWS)]
    return chi_square(np.bincount(tokens, minlength=len(probs_V)), probs_V)


def test_recursive_rejection_with_its_residual_gives_the_target_s_law() -> None:
    """The rule the docs prove equal to one draw looked up among the children."""
    assert law(residual=True) > 1e-3


def test_a_wrong_residual_is_caught() -> None:
    """Rejected children left in p: the children come out too often."""
    assert law(residual=False) < 1e-6


def test_draws_that_prefer_likely_tokens_are_caught(
    unstoppable: Target,
    make_fitted_draft: DraftMaker,
    marginals: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine's own statistic has power: half of the draws replaced by the argmax, and the law is gone."""
    from eda_service.decoding import rounds

    true_draw = rounds.draw

    def often_the_likeliest(probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        return torch.where(uniforms < 0.5, probs.argmax(-1), true_draw(probs, uniforms))

    monkeypatch.setattr(rounds, "draw", often_the_likeliest)
    assert min(engine_p_values(unstoppable, make_fitted_draft("llama"), marginals)) < 1e-6
