"""The engine on a GPU: the answers are those of transformers on a CPU, the law of sampled tokens is the target's.

Shapes: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import answer, decode, make_prompts, reference_answer, speculative
from scipy import stats
from transformers import PreTrainedModel

from eda_service.config.job import TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.policy import Adaptive
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.evaluation.replay import Replay, Transcript
from eda_service.targets.loader import Target

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
FORMS: dict[str, dict[str, Any]] = {
    "chain": {"num_draft_tokens": 4},
    "tree": {"tree": TreeConfig(size=7, depth=3, width=3)},
    "adaptive": {"num_draft_tokens": 5, "policy": Adaptive(read_confidence=False)},
}
_NUM_DRAWS = 3000
_LEVEL = 1e-3

TargetOn = Callable[[str], Target]
DraftOn = Callable[[str], Draft]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_greedy_answers_are_those_of_transformers(
    form: str,
    family: str,
    target_on: TargetOn,
    draft_on: DraftOn,
    reference_model: Callable[[str], PreTrainedModel],
) -> None:
    target, prompts = target_on(family), make_prompts(10)
    params = [SamplingParams(max_new_tokens=cap) for cap in (1, 2, 3, 5, 8, 13, 21, 30, 30, 30)]
    engine = speculative(target, draft_on(family), **FORMS[form])
    for i, (ids, each) in enumerate(zip(prompts, params, strict=True)):
        engine.submit(str(i), ids, each)
    done = run_to_end(engine)
    accepted = sum(outputs[-1].stats.num_accepted_tokens for outputs in done.values())
    proposed = sum(outputs[-1].stats.num_draft_tokens for outputs in done.values())
    assert proposed == 0 or accepted < proposed
    assert accepted > 0 or form == "adaptive"  # which may find that drafting does not pay
    for i, (ids, each) in enumerate(zip(prompts, params, strict=True)):
        assert answer(done[str(i)]) == reference_answer(reference_model(family), target, ids, each.max_new_tokens)


def test_a_draft_vocabulary_is_looked_up_on_the_device(target_on: TargetOn, draft_on: DraftOn) -> None:
    target, prompts = target_on("llama"), make_prompts(6, seed=2)
    params = [SamplingParams(max_new_tokens=24)] * 6
    got = decode(speculative(target, draft_on("llama"), vocab_W=torch.arange(0, 112, 2)), prompts, params)
    assert got == decode(Engine(target, max_batch=4, max_tokens=120), prompts, params)


@pytest.mark.parametrize("form", ["chain", "tree"])
def test_seeded_sampling_with_filters_and_logprobs_repeats_itself(
    form: str, target_on: TargetOn, draft_on: DraftOn
) -> None:
    target, prompts = target_on("qwen3"), make_prompts(6, seed=3)
    params = [
        SamplingParams(max_new_tokens=16, temperature=0.8, seed=1),
        SamplingParams(max_new_tokens=16, temperature=1.0, top_p=0.9, seed=2),
        SamplingParams(max_new_tokens=16, temperature=1.2, min_new_tokens=4, seed=3),
        SamplingParams(max_new_tokens=16),
        SamplingParams(max_new_tokens=16, temperature=1.0, seed=4),
        SamplingParams(max_new_tokens=16, num_logprobs=3),
    ]
    runs = [decode(speculative(target, draft_on("qwen3"), **FORMS[form]), prompts, params) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({tuple(tokens) for tokens in runs[0]}) == len(prompts)


@torch.inference_mode()
def test_sampled_tokens_follow_the_target(target_on: TargetOn, draft_on: DraftOn) -> None:
    """Chi-square of the second tokens of answers against one plain forward, rare tokens pooled."""
    target, prompt = target_on("llama"), [5, 17, 40, 9]
    engine = speculative(target, draft_on("llama"), num_draft_tokens=1, max_batch=200)
    for i in range(_NUM_DRAWS):
        engine.submit(str(i), prompt, SamplingParams(temperature=1.0, max_new_tokens=2, seed=i))
    drawn = [answer(outputs) for outputs in run_to_end(engine).values()]
    pairs = [(tokens[0], tokens[1]) for tokens in drawn if len(tokens) == 2]
    firsts = Counter(first for first, _ in pairs)
    ids_BL = torch.tensor([[*prompt, first] for first in firsts], device=target.device)
    features_BLD = target.forward(ids_BL, target.new_cache(*ids_BL.shape), [0] * len(firsts)).head_in
    probs_BV = torch.softmax(target.head(features_BLD[:, -1]).double(), dim=-1).cpu()
    expected_V = (torch.tensor([float(count) for count in firsts.values()], dtype=torch.float64) @ probs_BV).numpy()
    observed_V = np.bincount([second for _, second in pairs], minlength=len(expected_V))
    common_V = expected_V >= 5
    observed = np.append(observed_V[common_V], observed_V[~common_V].sum())
    expected = np.append(expected_V[common_V], expected_V[~common_V].sum())
    assert common_V.sum() >= 8
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > _LEVEL


@torch.inference_mode()
@pytest.mark.parametrize("form", ["chain", "tree"])
def test_a_replay_counts_what_decoding_counts(form: str, target_on: TargetOn, draft_on: DraftOn) -> None:
    target, draft, prompts = target_on("llama"), draft_on("llama"), make_prompts(6, seed=5)
    plain = Engine(target, max_batch=6, max_tokens=120, capture_features=True)
    speculating = speculative(target, draft, **FORMS[form])
    for engine in (plain, speculating):
        for i, ids in enumerate(prompts):
            engine.submit(str(i), ids, SamplingParams(max_new_tokens=24))
    written, counted = run_to_end(plain), run_to_end(speculating)
    texts = []
    for i, ids in enumerate(prompts):
        states = written[str(i)][-1].states
        assert states is not None
        texts.append(Transcript([*ids, *answer(written[str(i)])], len(ids), states.draft_in))
    tree = FORMS[form].get("tree")
    replay = Replay(draft, target.embed, DraftHead(target.lm_head, None), num_draft_tokens=4, tree=tree)
    found = replay.run(texts, 0.0)
    assert [each.num_accepted_tokens for each in found] == [
        counted[str(i)][-1].stats.num_accepted_tokens for i in range(len(prompts))
    ]
