"""The engine with draft trees: T=0 equals no draft, T>0 equals the same seed without one; recursive rejection's law.

(Trees against transformers at T=0: `test_engine`; their law at T=1: `test_verification`.)

Shapes: N requests, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from engine_helpers import DraftMaker, TargetMaker, decode, make_prompts, speculative
from test_engine import FAMILIES
from test_verification import chi_square

from eda_service.config.job import TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams

pytestmark = pytest.mark.slow

SMALL = TreeConfig(size=7, depth=3, width=3)
TREES = {
    "small": SMALL,
    "paper": TreeConfig(size=60, depth=5, width=10),
    "wide": TreeConfig(size=4, depth=1, width=6),
    "one": TreeConfig(size=1, depth=1, width=1),
    "whole pool": TreeConfig(size=512, depth=3, width=4),
}


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
