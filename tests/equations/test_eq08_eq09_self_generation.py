"""Eqs. 8 and 9: y ~ P_target(. | x) with the target's chat template, D_self = {(x, y)}, the answer known by token ids.

Oracles: transformers' `generate` and forward on a prompt whose chat template is filled in by hand; at T > 0 a
chi-square test of first answer tokens against transformers' softmax.

Shapes: L positions, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import PreTrainedModel

from eda_service.config.job import SelfGenConfig
from eda_service.engines.own import OwnEngine
from eda_service.records import SkippedRow
from eda_service.selfgen.generate import Generated, generate, sample_seed
from eda_service.selfgen.prompts import Prompt
from eda_service.targets.loader import Target
from eda_service.training.batches import collate

TEXTS = ("the user", "another one of the others?", "and", "assistant and user", "the one", "who is the other", "a", "b")


def make_prompts(texts: tuple[str, ...] = TEXTS) -> list[Prompt]:
    return [Prompt(id=f"p{i}", messages=[{"role": "user", "content": text}]) for i, text in enumerate(texts)]


def by_hand(target: Target, text: str) -> list[int]:
    """The conftest's chat template, written out."""
    rendered = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return [int(token) for token in target.tokenizer(rendered, add_special_tokens=False)["input_ids"]]


def config(**changes: object) -> SelfGenConfig:
    return SelfGenConfig.model_validate({"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 20, **changes})


@pytest.fixture(scope="module")
def greedy(make_target: Callable[[str], Target]) -> Generated:
    return generate(OwnEngine(make_target("qwen2")), make_prompts(), config(batch_size=3), seed=0)


def test_answers_are_the_target_s_own(
    greedy: Generated, make_target: Callable[[str], Target], reference_model: Callable[[str], PreTrainedModel]
) -> None:
    target, reference = make_target("qwen2"), reference_model("qwen2")
    assert len(greedy.samples) == len(TEXTS)
    for sample, text in zip(greedy.samples, TEXTS, strict=True):
        prompt = by_hand(target, text)
        wanted = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=sorted(target.stop_token_ids),
        )
        assert sample.token_ids == wanted[0].tolist()
        assert sample.num_prompt_tokens == len(prompt)


def test_features_are_the_target_s_after_its_final_norm(
    greedy: Generated, reference_model: Callable[[str], PreTrainedModel]
) -> None:
    for sample in greedy.samples:
        assert sample.features is not None
        hidden_1LD = reference_model("qwen2").model(torch.tensor([sample.token_ids])).last_hidden_state
        assert sample.features.shape == (len(sample.token_ids) - 1, hidden_1LD.shape[-1])
        torch.testing.assert_close(sample.features.float(), hidden_1LD[0, :-1], rtol=2e-3, atol=2e-3)


def test_answer_mask_comes_from_token_ids_not_from_text(tiny_target: Target) -> None:
    """Some answers re-tokenise to other ids (so the distinction is real), and every mask still fits the ids."""
    prompts = [Prompt(id=f"m{i}", messages=[{"role": "user", "content": "the"}]) for i in range(100)]
    settings = config(temperature=1.5, max_new_tokens=60, batch_size=100)
    samples = generate(OwnEngine(tiny_target), prompts, settings, seed=0).samples
    ambiguous = 0
    for sample in samples:
        answer = sample.token_ids[sample.num_prompt_tokens :]
        text = tiny_target.tokenizer.decode(answer)
        ambiguous += tiny_target.tokenizer(text, add_special_tokens=False)["input_ids"] != answer
    assert ambiguous > 0
    batch = collate(samples, max_tokens=512, dtype=torch.float32)
    num_prompt = len(by_hand(tiny_target, "the"))
    for row, sample in enumerate(samples):
        positions = batch.loss_mask_BL[row].nonzero().flatten().tolist()
        assert positions == list(range(num_prompt, len(sample.token_ids)))
        assert batch.token_ids_BL[row, positions].tolist() == sample.token_ids[num_prompt:]


def test_first_answer_tokens_follow_the_target_s_softmax(
    make_target: Callable[[str], Target], reference_model: Callable[[str], PreTrainedModel]
) -> None:
    """1,500 samples of one prompt at T = 0.7 under their own seeds, chi-square against transformers' logits."""
    target, num_samples = make_target("llama"), 1500
    prompts = [Prompt(id=f"s{i}", messages=[{"role": "user", "content": "the other"}]) for i in range(num_samples)]
    made = generate(OwnEngine(target), prompts, config(temperature=0.7, max_new_tokens=8, batch_size=256), seed=1)
    first = [sample.token_ids[sample.num_prompt_tokens] for sample in made.samples]
    logits_V = reference_model("llama")(torch.tensor([by_hand(target, "the other")])).logits[0, -1].double()
    probs_V = torch.softmax(logits_V / 0.7, dim=-1).numpy()
    probs_V[sorted(target.stop_token_ids)] = 0.0  # an answer that is only a stop token is skipped, not kept
    expected_V = len(first) * probs_V / probs_V.sum()
    counts_V = np.bincount(first, minlength=len(probs_V))
    common_V = expected_V >= 5
    observed = np.append(counts_V[common_V], counts_V[~common_V].sum())
    expected = np.append(expected_V[common_V], expected_V[~common_V].sum())
    assert common_V.sum() >= 5
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3
    assert len(made.samples) + len(made.skipped) == num_samples


def test_a_sample_does_not_depend_on_its_neighbours(tiny_target: Target) -> None:
    settings = config(temperature=0.9, top_p=0.9, batch_size=3)
    prompts = make_prompts()
    together = {s.sample_id: s.token_ids for s in generate(OwnEngine(tiny_target), prompts, settings, seed=4).samples}
    backwards = {
        s.sample_id: s.token_ids for s in generate(OwnEngine(tiny_target), prompts[::-1], settings, seed=4).samples
    }
    alone = {
        s.sample_id: s.token_ids
        for p in prompts
        for s in generate(OwnEngine(tiny_target), [p], settings, seed=4).samples
    }
    assert together == backwards == alone
    other_seed = {s.sample_id: s.token_ids for s in generate(OwnEngine(tiny_target), prompts, settings, seed=5).samples}
    assert other_seed != together


def test_sample_seed_is_a_function_of_both_parts() -> None:
    seeds = {sample_seed(seed, name) for seed in (0, 1) for name in ("a", "b")}
    assert len(seeds) == 4
    assert sample_seed(0, "a") == sample_seed(0, "a")


def test_long_prompts_are_skipped_with_their_length(tiny_target: Target) -> None:
    prompts = make_prompts(("the", "the user and " * 30))
    made = generate(OwnEngine(tiny_target), prompts, config(max_prompt_tokens=64), seed=0)
    length = len(by_hand(tiny_target, "the user and " * 30))
    assert [sample.sample_id for sample in made.samples] == ["p0"]
    assert made.skipped == [SkippedRow(sample_id="p1", reason=f"prompt has {length} tokens")]
