"""Losslessness on a real model: SmolLM2-135M-Instruct with its shipped base draft, in float32.

T=0: 50 prompts, speculative output token-identical to autoregressive output of the same engine. T=1: chi-square of next
tokens drawn in speculative rounds against the target's softmax, worked out without the engine; the same statistic with
the residual broken on purpose must fail.

Shapes: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from eda_service.config.job import TargetSpec, TreeConfig
from eda_service.decoding import verification
from eda_service.decoding.build import make_engine
from eda_service.decoding.engine import run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import LoadedDraft, for_inference, load_base_draft
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.lossless import check_lossless
from eda_service.storage.published.registry import find_draft
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.loader import Target, load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BASE_DRAFT = "smollm2-135m@3"
_TOPICS = ("bread", "the moon", "bicycles", "rivers", "chess", "the heart", "prime numbers", "coffee", "bees", "glass")
_QUESTIONS = (
    "Explain {} to a child.",
    "Write two sentences about {}.",
    "List three facts about {}.",
    "Why do people care about {}?",
    "Give me a short poem on {}.",
)
_CONTEXT = "In the summer I like to"
_CHAIN = 4
_NUM_DRAWS = 1500
_LEVEL = 1e-3  # of the chi-square test, for both outcomes


@pytest.fixture(scope="module")
def target() -> Target:
    return load_target(TargetSpec(model="smollm2-135m-instruct", dtype="float32"))


@pytest.fixture(scope="module")
def base_draft(target: Target) -> LoadedDraft:
    return for_inference(load_base_draft(find_draft(BASE_DRAFT), dtype=target.dtype))


def test_t0_is_token_identical_for_50_prompts(target: Target, base_draft: LoadedDraft) -> None:
    messages = [question.format(topic) for topic, question in product(_TOPICS, _QUESTIONS)]
    prompts = [render_prompt(target.tokenizer, [{"role": "user", "content": text}]) for text in messages]
    params = SamplingParams(max_new_tokens=32)
    plain = decode_all(make_engine(target, None, num_draft_tokens=0, max_batch=25, max_tokens=160), prompts, params)
    speculative = decode_all(
        make_engine(target, base_draft, num_draft_tokens=_CHAIN, max_batch=25, max_tokens=160), prompts, params
    )
    accepted = sum(item.num_accepted_tokens for item in speculative.stats)
    proposed = sum(item.num_draft_tokens for item in speculative.stats)
    assert 0.1 * proposed < accepted < proposed
    check = check_lossless(OwnEngine(target), prompts, plain.token_ids, speculative.token_ids)
    assert (check.num_identical, check.num_near_ties, check.num_different) == (50, 0, 0)
    assert len({tuple(tokens) for tokens in plain.token_ids}) > 40


def test_t0_of_one_request_is_token_identical(target: Target, base_draft: LoadedDraft) -> None:
    """Batch 1: autoregressive forwards have a single row, speculative ones five."""
    prompt = render_prompt(target.tokenizer, [{"role": "user", "content": "Explain rivers to a child."}])
    params = SamplingParams(max_new_tokens=64)
    plain = decode_all(make_engine(target, None, num_draft_tokens=0, max_batch=1, max_tokens=160), [prompt], params)
    speculative = decode_all(
        make_engine(target, base_draft, num_draft_tokens=_CHAIN, max_batch=1, max_tokens=160), [prompt], params
    )
    assert speculative.token_ids == plain.token_ids


def test_t0_with_trees_is_token_identical(target: Target, base_draft: LoadedDraft) -> None:
    messages = [question.format(topic) for topic, question in product(_TOPICS[:4], _QUESTIONS[:3])]
    prompts = [render_prompt(target.tokenizer, [{"role": "user", "content": text}]) for text in messages]
    params = SamplingParams(max_new_tokens=24)
    sizes = {"max_batch": 12, "max_tokens": 160}
    plain = decode_all(make_engine(target, None, num_draft_tokens=0, **sizes), prompts, params)
    tree = TreeConfig(size=12, depth=3, width=4)
    drafted = decode_all(make_engine(target, base_draft, num_draft_tokens=3, tree=tree, **sizes), prompts, params)
    accepted = sum(item.num_accepted_tokens for item in drafted.stats)
    assert 0.2 * sum(item.num_rounds for item in drafted.stats) < accepted
    check = check_lossless(OwnEngine(target), prompts, plain.token_ids, drafted.token_ids)
    assert (check.num_identical, check.num_near_ties, check.num_different) == (12, 0, 0)


@torch.inference_mode()
def next_token_probs(target: Target, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
    """softmax of the target's logits after equally long contexts (B, V), one plain forward, no engine."""
    ids_BL = torch.tensor([list(context) for context in contexts])
    cache = target.new_cache(*ids_BL.shape)
    features_BLD = target.forward(ids_BL, cache, [0] * len(contexts)).head_in
    return torch.softmax(target.head(features_BLD[:, -1]).double(), dim=-1)


def second_token_p_value(target: Target, loaded: LoadedDraft) -> float:
    """p-value of the tokens a speculative round gave after each prefill token, rare tokens pooled.

    The first token of an answer comes from prefill; given those drawn, the expected counts of the second are the sum of
    the target's distributions after them. One draft token is enough to fill a round.
    """
    prompt = target.tokenizer(_CONTEXT)["input_ids"]
    engine = make_engine(target, loaded, max_batch=100, max_tokens=40, num_draft_tokens=1)
    for i in range(_NUM_DRAWS):
        engine.submit(str(i), prompt, SamplingParams(temperature=1.0, max_new_tokens=2, seed=i))
    answers = [[t for output in outputs for t in output.new_token_ids] for outputs in run_to_end(engine).values()]
    pairs = [(tokens[0], tokens[1]) for tokens in answers if len(tokens) == 2]
    firsts = Counter(first for first, _ in pairs)
    probs_BV = next_token_probs(target, [[*prompt, first] for first in firsts])
    counts_B = torch.tensor([float(count) for count in firsts.values()], dtype=torch.float64)
    expected_V = (counts_B @ probs_BV).numpy()
    observed_V = np.bincount([second for _, second in pairs], minlength=len(expected_V))
    common_V = expected_V >= 5
    assert common_V.sum() >= 8
    observed = np.append(observed_V[common_V], observed_V[~common_V].sum())
    expected = np.append(expected_V[common_V], expected_V[~common_V].sum())
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


def test_t1_next_tokens_follow_the_target(target: Target, base_draft: LoadedDraft) -> None:
    assert second_token_p_value(target, base_draft) > _LEVEL


def test_t1_with_a_wrong_residual_is_caught(
    target: Target, base_draft: LoadedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statistic has power: correction tokens drawn from p instead of max(p - q, 0) do not pass it."""
    monkeypatch.setattr(verification, "residual", lambda target_probs_BV, _: target_probs_BV)
    assert second_token_p_value(target, base_draft) < _LEVEL
