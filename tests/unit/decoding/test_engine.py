"""T=0: speculative decoding is token-identical to autoregressive decoding and to transformers, on four families.

Oracle: transformers' own `generate`, one prompt at a time, eager attention, its own cache.

Shapes: V vocabulary, W draft vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_helpers import DraftMaker, TargetMaker, answer, decode, make_prompts, reference_answer, speculative
from transformers import PreTrainedModel

from eda_service.config.job import TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.targets.loader import Target

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
families = pytest.mark.parametrize("family", FAMILIES)
TREE = TreeConfig(size=7, depth=3, width=3)


@families
@pytest.mark.parametrize("settings", [{"num_draft_tokens": 4}, {"tree": TREE}], ids=["chain", "tree"])
def test_greedy_equals_transformers_with_and_without_a_draft(
    settings: dict[str, Any],
    family: str,
    make_target: TargetMaker,
    make_fitted_draft: DraftMaker,
    reference_model: Callable[[str], PreTrainedModel],
) -> None:
    """Ten requests of different lengths through four slots, so requests join and leave in nearly every round."""
    target, prompts = make_target(family), make_prompts(10)
    caps = [1, 2, 3, 5, 8, 13, 21, 30, 30, 30]
    params = [SamplingParams(max_new_tokens=cap) for cap in caps]
    engine = speculative(target, make_fitted_draft(family), **settings)
    for i, (ids, each) in enumerate(zip(prompts, params, strict=True)):
        engine.submit(str(i), ids, each)
    done = run_to_end(engine)
    accepted = sum(outputs[-1].stats.num_accepted_tokens for outputs in done.values())
    proposed = sum(outputs[-1].stats.num_draft_tokens for outputs in done.values())
    assert 0 < accepted < proposed  # some drafts are right and some wrong, else the test shows nothing
    plain = decode(Engine(target, max_batch=4, max_tokens=120), prompts, params)
    for i, (ids, cap) in enumerate(zip(prompts, caps, strict=True)):
        wanted = reference_answer(reference_model(family), target, ids, cap)
        assert answer(done[str(i)]) == wanted
        assert plain[i] == wanted


@families
def test_a_useless_draft_costs_speed_not_correctness(
    family: str, make_target: TargetMaker, new_draft: Callable[..., Draft]
) -> None:
    target, prompts = make_target(family), make_prompts(6, seed=1)
    params = [SamplingParams(max_new_tokens=20)] * 6
    plain = decode(Engine(target, max_batch=4, max_tokens=120), prompts, params)
    assert decode(speculative(target, new_draft(target, seed=8)), prompts, params) == plain


def test_draft_vocabulary_does_not_change_the_answer(make_target: TargetMaker, make_fitted_draft: DraftMaker) -> None:
    """Tokens outside the draft vocabulary still come, from the target."""
    target, prompts = make_target("llama"), make_prompts(6, seed=2)
    params = [SamplingParams(max_new_tokens=24)] * 6
    vocab_W = torch.arange(0, 112, 2)
    got = decode(speculative(target, make_fitted_draft("llama"), vocab_W=vocab_W), prompts, params)
    assert got == decode(Engine(target, max_batch=4, max_tokens=120), prompts, params)
    assert any(token % 2 for tokens in got for token in tokens)


@pytest.mark.parametrize("num_draft_tokens", [1, 2, 7])
def test_every_chain_length_is_lossless(
    make_target: TargetMaker, make_fitted_draft: DraftMaker, num_draft_tokens: int
) -> None:
    target, prompts = make_target("qwen3"), make_prompts(5, seed=3)
    params = [SamplingParams(max_new_tokens=23)] * 5
    got = decode(speculative(target, make_fitted_draft("qwen3"), num_draft_tokens=num_draft_tokens), prompts, params)
    assert got == decode(Engine(target, max_batch=4, max_tokens=120), prompts, params)


def test_requests_may_join_at_any_round(tiny_target: Target, make_fitted_draft: DraftMaker) -> None:
    prompts = make_prompts(8, seed=4)
    params = SamplingParams(max_new_tokens=18)
    wanted = decode(Engine(tiny_target, max_batch=8, max_tokens=120), prompts, [params] * 8)
    engine = speculative(tiny_target, make_fitted_draft("llama"), max_batch=3)
    outputs: dict[str, list[int]] = {str(i): [] for i in range(8)}
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, params)
        for output in engine.step():
            outputs[output.request_id] += output.new_token_ids
        assert engine.num_running <= 3
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id] += output.new_token_ids
    assert [outputs[str(i)] for i in range(8)] == wanted


def test_long_prompts_are_prefilled_in_several_groups(tiny_target: Target, make_fitted_draft: DraftMaker) -> None:
    """Six prompts of about 450 tokens exceed one padded prefill of 2048 tokens."""
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 112) for _ in range(450 - 10 * i)] for i in range(6)]
    params = [SamplingParams(max_new_tokens=12)] * 6
    engine = speculative(tiny_target, make_fitted_draft("llama"), max_batch=6, max_tokens=500)
    alone = [decode(Engine(tiny_target, max_batch=1, max_tokens=500), [ids], params[:1])[0] for ids in prompts]
    assert decode(engine, prompts, params) == alone


def test_arrivals_prefill_together_where_lengths_are_alike_and_in_order_of_arrival(tiny_target: Target) -> None:
    engine = Engine(tiny_target, max_batch=6, max_tokens=120)
    lengths = [40, 10, 41, 10, 11, 42, 3, 60]
    for i, length in enumerate(lengths):
        engine.submit(str(i), [5] * length, SamplingParams(max_new_tokens=4))
    groups = [[int(request.request_id) for request in group] for group in engine._arrivals()]
    assert groups == [[1, 3, 4], [0, 2, 5]]
    assert engine.num_waiting == 2


def test_no_group_is_padded_by_more_than_a_sixth(tiny_target: Target) -> None:
    engine = Engine(tiny_target, max_batch=40, max_tokens=120)
    rng = random.Random(0)
    for i in range(40):
        engine.submit(str(i), [5] * rng.randint(1, 100), SamplingParams(max_new_tokens=4))
    groups = engine._arrivals()
    assert sum(map(len, groups)) == 40
    assert len(groups) < 20
    for group in groups:
        widths = [len(request.prompt_ids) for request in group]
        assert max(widths) * len(widths) * 0.85 <= sum(widths)
