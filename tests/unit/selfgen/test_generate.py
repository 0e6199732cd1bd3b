"""Self-generation's edges: samples without an answer, refused prompts, progress, storage (the law is in Eqs. 8-9)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest
import torch
from transformers import PreTrainedModel

from eda_service.config.job import Answers, SelfGenConfig
from eda_service.decoding.request import SamplingParams
from eda_service.selfgen.generate import generate, storage_dtype
from eda_service.selfgen.prompts import Prompt
from eda_service.targets.generation_defaults import GenerationDefaults
from eda_service.targets.loader import Target

CONFIG = SelfGenConfig(temperature=0.0, max_new_tokens=10)


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(id=f"p{i}", messages=[{"role": "user", "content": text}]) for i, text in enumerate(texts)]


def test_an_answer_that_is_only_a_stop_token_is_skipped_with_its_reason(tiny_target: Target) -> None:
    """Its answer mask would be all zero: nothing to learn and no token to take a quantile of."""
    first = generate(tiny_target, prompts("the"), CONFIG, seed=0).samples[0]
    stop = first.token_ids[first.num_prompt_tokens]
    target = dataclasses.replace(tiny_target, stop_token_ids=frozenset({stop}))
    made = generate(target, prompts("the"), CONFIG, seed=0)
    assert made.samples == []
    assert [(row.sample_id, row.reason) for row in made.skipped] == [
        ("p0", "empty answer: its answer mask is all zero")
    ]


def test_answers_are_written_as_the_model_is_served(
    tiny_target: Target, reference_model: Callable[[str], PreTrainedModel]
) -> None:
    """Oracle: transformers' `generate` with the same repetition penalty and suppressed tokens."""
    own = GenerationDefaults(temperature=1.7, repetition_penalty=1.9, suppress_token_ids=frozenset({40, 41, 42}))
    made = generate(dataclasses.replace(tiny_target, defaults=own), prompts("the", "and"), CONFIG, seed=0)
    for sample in made.samples:
        ids = sample.token_ids[: sample.num_prompt_tokens]
        out = reference_model("llama").generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=CONFIG.max_new_tokens,
            eos_token_id=sorted(tiny_target.stop_token_ids),
            repetition_penalty=1.9,
            suppress_tokens=[40, 41, 42],
        )
        assert sample.token_ids == out[0].tolist()
    assert [each.token_ids for each in generate(tiny_target, prompts("the", "and"), CONFIG, seed=0).samples] != [
        each.token_ids for each in made.samples
    ]


def test_every_prompt_is_either_a_sample_or_a_skipped_row(tiny_target: Target) -> None:
    made = generate(
        tiny_target, prompts("the", "a" * 400, "and", "b" * 600), CONFIG.model_copy(update={"batch_size": 2}), seed=0
    )
    too_long = generate(tiny_target, prompts("a" * 700), CONFIG, seed=0)
    assert [row.sample_id for row in too_long.skipped] == ["p0"]
    names = [sample.sample_id for sample in made.samples] + [row.sample_id for row in made.skipped]
    assert sorted(names) == ["p0", "p1", "p2", "p3"]
    assert all(row.reason for row in made.skipped)


def test_a_prompt_that_does_not_render_is_skipped_and_the_others_go_on(tiny_target: Target) -> None:
    tokenizer = tiny_target.tokenizer
    template = tokenizer.chat_template
    strict = "{% if messages[0]['content'] == 'bad' %}{{ raise_exception('no bad words') }}{% endif %}" + template
    tokenizer.chat_template = strict
    try:
        made = generate(tiny_target, prompts("the", "bad"), CONFIG, seed=0)
    finally:
        tokenizer.chat_template = template
    assert [sample.sample_id for sample in made.samples] == ["p0"]
    assert made.skipped[0].sample_id == "p1"
    assert "no bad words" in made.skipped[0].reason


def test_progress_counts_every_new_token(tiny_target: Target) -> None:
    seen: list[int] = []
    made = generate(tiny_target, prompts("the", "and"), CONFIG, seed=0, on_progress=seen.append)
    assert sum(seen) == sum(sample.num_answer_tokens for sample in made.samples)


def test_several_temperatures_take_turns_by_sample(tiny_target: Target) -> None:
    """At temperature 0 a sample is the greedy answer; with a second temperature some samples are not."""
    many = prompts(*[f"the {i}" for i in range(12)])
    greedy = generate(tiny_target, many, CONFIG, seed=0).samples
    mixed = generate(tiny_target, many, CONFIG.model_copy(update={"extra_temperatures": (1.5,)}), seed=0).samples
    same = [a.token_ids == b.token_ids for a, b in zip(greedy, mixed, strict=True)]
    assert any(same)
    assert not all(same)


@pytest.mark.parametrize(
    ("dtype", "wanted"), [(torch.float32, torch.float16), (torch.bfloat16, torch.bfloat16)], ids=str
)
def test_features_are_stored_in_two_bytes(dtype: torch.dtype, wanted: torch.dtype) -> None:
    assert storage_dtype(dtype) == wanted


def test_the_data_sets_own_answers_run_through_the_target(tiny_target: Target) -> None:
    """Features must be those of a forward over prompt and answer; the answer ends with the turn."""
    rows = [dataclasses.replace(prompt, reference="the other one") for prompt in prompts("the", "user and user")]
    config = CONFIG.model_copy(update={"answers": Answers.DATASET, "batch_size": 2})
    made = generate(tiny_target, rows, config, seed=0)
    assert made.skipped == []
    for sample in made.samples:
        ids = tiny_target.tokenizer("the other one")["input_ids"]
        assert sample.token_ids[sample.num_prompt_tokens :] == [*ids, tiny_target.tokenizer.eos_token_id]
        cache = tiny_target.new_cache(1, 64)
        wanted = tiny_target.forward(torch.tensor([sample.token_ids]), cache, [0]).head_in[0, :-1]
        assert sample.features is not None
        torch.testing.assert_close(sample.features.float(), wanted, atol=2e-3, rtol=2e-3)


def test_a_long_reference_is_cut_and_a_missing_one_is_a_skipped_row(tiny_target: Target) -> None:
    rows = [dataclasses.replace(prompts("the")[0], reference="a" * 90), Prompt("none", prompts("the")[0].messages)]
    made = generate(tiny_target, rows, CONFIG.model_copy(update={"answers": Answers.DATASET}), seed=0)
    assert [sample.num_answer_tokens for sample in made.samples] == [CONFIG.max_new_tokens]
    assert [row.sample_id for row in made.skipped] == ["none"]
    assert "selfgen.answers" in made.skipped[0].reason


class Recited:
    """Writes answers it was given, as another engine would, and notes what it was asked."""

    def __init__(self, answers: dict[str, list[int]]) -> None:
        self.answers = answers
        self.prompts: dict[str, list[int]] = {}
        self.params: dict[str, SamplingParams] = {}

    def write(self, prompts: Mapping[str, list[int]], params: Mapping[str, SamplingParams]) -> dict[str, list[int]]:
        self.prompts, self.params = dict(prompts), dict(params)
        return {each: self.answers[each] for each in prompts}


def test_answers_of_another_engine_give_the_same_prompts_masks_and_features(tiny_target: Target) -> None:
    many = prompts("the", "and the user", "c" * 600, "other")
    own = generate(tiny_target, many, CONFIG, seed=0)
    writer = Recited({each.sample_id: each.token_ids[each.num_prompt_tokens :] for each in own.samples})
    made = generate(tiny_target, many, CONFIG, seed=0, writer=writer)
    assert set(writer.prompts) == {"p0", "p1", "p3"}
    assert all(params.max_new_tokens == 10 and params.temperature == 0.0 for params in writer.params.values())
    assert made.skipped == own.skipped
    for found, expected in zip(made.samples, own.samples, strict=True):
        assert (found.sample_id, found.token_ids) == (expected.sample_id, expected.token_ids)
        assert found.num_prompt_tokens == expected.num_prompt_tokens
        assert writer.prompts[found.sample_id] == found.token_ids[: found.num_prompt_tokens]
        torch.testing.assert_close(found.features, expected.features, rtol=1e-2, atol=1e-2)  # float16 on storage


def test_an_answer_that_leaves_no_room_to_be_read_costs_its_own_sample_alone(tiny_target: Target) -> None:
    many = prompts("the", "other")
    own = generate(tiny_target, many, CONFIG, seed=0)
    answers = {each.sample_id: each.token_ids[each.num_prompt_tokens :] for each in own.samples}
    writer = Recited({**answers, "p0": [5] * tiny_target.max_context})
    made = generate(tiny_target, many, CONFIG, seed=0, writer=writer)
    assert [sample.sample_id for sample in made.samples] == ["p1"]
    (skipped,) = made.skipped
    assert skipped.sample_id == "p0"
    assert "tokens" in skipped.reason
