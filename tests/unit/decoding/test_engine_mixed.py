"""Requests of every kind in one batch, arriving and leaving at random, against each decoded alone.

At T=0 the answer may not depend on neighbours, and neither may a seeded sampled answer.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from engine_helpers import DraftMaker, TargetMaker, decode, make_prompts, speculative
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eda_service.config.job import TreeConfig
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams
from eda_service.targets.loader import Target

pytestmark = pytest.mark.slow

MODES: dict[str, dict[str, Any]] = {
    "chain": {"num_draft_tokens": 3},
    "tree": {"tree": TreeConfig(size=9, depth=3, width=4)},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_autoregressive_and_speculative_requests_mix(
    mode: str, family: str, make_target: TargetMaker, make_fitted_draft: DraftMaker
) -> None:
    target, draft, prompts = make_target(family), make_fitted_draft(family), make_prompts(12, seed=8)
    params = [
        SamplingParams(temperature=1.0 if i % 4 == 3 else 0.0, seed=i, max_new_tokens=22, speculate=i % 2 == 0)
        for i in range(12)
    ]
    engine = speculative(target, draft, **MODES[mode])
    for i, (ids, each) in enumerate(zip(prompts, params, strict=True)):
        engine.submit(str(i), ids, each)
    answers: dict[str, list[int]] = {str(i): [] for i in range(12)}
    proposed = dict.fromkeys(answers, 0)
    while engine.has_work:
        for output in engine.step():
            answers[output.request_id] += output.new_token_ids
            proposed[output.request_id] = output.stats.num_draft_tokens
    plain = decode(Engine(target, max_batch=4, max_tokens=120), prompts, params)
    assert list(answers.values()) == plain  # greedy rows, and sampled rows that do not speculate
    for i, each in enumerate(params):
        assert (proposed[str(i)] > 0) == (each.speculate and len(plain[i]) > 1)


@pytest.mark.parametrize("mode", MODES)
# The same examples in every run: a batch rounds otherwise than one row, and among thousands of draws with fresh seeds
# one in some tens of runs fell within 1e-7 of a border between two tokens, where either is right.
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_arrivals_at_random_equal_one_by_one(
    mode: str, seed: int, tiny_target: Target, make_fitted_draft: DraftMaker
) -> None:
    """Random arrival rounds, cancels, slots, caps, temperatures, nuclei and stops; seeds given."""
    rng = random.Random(seed)
    draft = make_fitted_draft("llama")
    prompts = make_prompts(8, seed=seed)
    params = [
        SamplingParams(
            temperature=rng.choice([0.0, 0.0, 0.8, 1.3]),
            top_p=rng.choice([1.0, 0.8]),
            max_new_tokens=rng.randint(1, 20),
            seed=rng.randint(0, 99),
            stop_token_ids=frozenset(rng.sample(range(3, 112), 3)),
            speculate=rng.random() < 0.7,
        )
        for _ in prompts
    ]
    arrives = [rng.randint(0, 12) for _ in prompts]
    cancelled = {i: arrives[i] + rng.randint(0, 8) for i in rng.sample(range(8), 2)}
    alone = [
        decode(speculative(tiny_target, draft, max_batch=1, **MODES[mode]), [ids], [each])[0]
        for ids, each in zip(prompts, params, strict=True)
    ]
    engine = speculative(tiny_target, draft, max_batch=rng.randint(1, 5), **MODES[mode])
    answers: dict[int, list[int]] = {i: [] for i in range(8)}
    ended: dict[int, str] = {}
    for clock in range(500):
        for i in range(8):
            if arrives[i] == clock:
                engine.submit(str(i), prompts[i], params[i])
            if cancelled.get(i) == clock:
                engine.cancel(str(i))
        for output in engine.step():
            answers[int(output.request_id)] += output.new_token_ids
            if output.finish_reason is not None:
                ended[int(output.request_id)] = output.finish_reason
        if len(ended) == 8 and not engine.has_work:
            break
    for i in range(8):
        if ended[i] == "cancelled":
            assert answers[i] == alone[i][: len(answers[i])]
        else:
            assert answers[i] == alone[i]
