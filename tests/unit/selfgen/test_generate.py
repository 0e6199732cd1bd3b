"""Self-generation's edges: samples without an answer, refused prompts, progress, storage (the law is in Eqs. 8-9)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from eda_service.config.job import Answers, SelfGenConfig
from eda_service.engines.engine import Answer, AnswerRequest
from eda_service.engines.own import OwnEngine
from eda_service.selfgen.generate import generate, storage_dtype
from eda_service.selfgen.prompts import Prompt
from eda_service.targets.files.generation_defaults import GenerationDefaults
from eda_service.targets.loader import Target

CONFIG = SelfGenConfig(temperature=0.0, max_new_tokens=10)


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(id=f"p{i}", messages=[{"role": "user", "content": text}]) for i, text in enumerate(texts)]


def test_an_answer_that_is_only_a_stop_token_is_skipped_with_its_reason(tiny_target: Target) -> None:
    """Its answer mask would be all zero: nothing to learn and no token to take a quantile of."""
    first = generate(OwnEngine(tiny_target), prompts("the"), CONFIG, seed=0).samples[0]
    stop = first.token_ids[first.num_prompt_tokens]
    target = dataclasses.replace(tiny_target, stop_token_ids=frozenset({stop}))
    made = generate(OwnEngine(target), prompts("the"), CONFIG, seed=0)
    assert made.samples == []
    assert [(row.sample_id, row.reason) for row in made.skipped] == [
        ("p0", "empty answer: its answer mask is all zero")
    ]


def test_answers_are_written_as_the_model_is_served(
    tiny_target: Target, reference_model: Callable[[str], PreTrainedModel]
) -> None:
    """Oracle: transformers' `generate` with the same repetition penalty and suppressed tokens."""
    own = GenerationDefaults(temperature=1.7, repetition_penalty=1.9, suppress_token_ids=frozenset({40, 41, 42}))
    made = generate(OwnEngine(dataclasses.replace(tiny_target, defaults=own)), prompts("the", "and"), CONFIG, seed=0)
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
    assert [
        each.token_ids for each in generate(OwnEngine(tiny_target), prompts("the", "and"), CONFIG, seed=0).samples
    ] != [each.token_ids for each in made.samples]


def test_every_prompt_is_either_a_sample_or_a_skipped_row(tiny_target: Target) -> None:
    made = generate(
        OwnEngine(tiny_target),
        prompts("the", "a" * 400, "and", "b" * 600),
        CONFIG.model_copy(update={"batch_size": 2}),
        seed=0,
    )
    too_long = generate(OwnEngine(tiny_target), prompts("a" * 700), CONFIG, seed=0)
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
        made = generate(OwnEngine(tiny_target), prompts("the", "bad"), CONFIG, seed=0)
    finally:
        tokenizer.chat_template = template
    assert [sample.sample_id for sample in made.samples] == ["p0"]
    assert made.skipped[0].sample_id == "p1"
    assert "no bad words" in made.skipped[0].reason


def test_several_temperatures_take_turns_by_sample(tiny_target: Target) -> None:
    """At temperature 0 a sample is the greedy answer; with a second temperature some samples are not."""
    many = prompts(*[f"the {i}" for i in range(12)])
    greedy = generate(OwnEngine(tiny_target), many, CONFIG, seed=0).samples
    mixed = generate(
        OwnEngine(tiny_target), many, CONFIG.model_copy(update={"extra_temperatures": (1.5,)}), seed=0
    ).samples
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
    made = generate(OwnEngine(tiny_target), rows, config, seed=0)
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
    made = generate(OwnEngine(tiny_target), rows, CONFIG.model_copy(update={"answers": Answers.DATASET}), seed=0)
    assert [sample.num_answer_tokens for sample in made.samples] == [CONFIG.max_new_tokens]
    assert [row.sample_id for row in made.skipped] == ["none"]
    assert "selfgen.answers" in made.skipped[0].reason


class Partial:
    """An engine over another that refuses one request, and notes what it was asked."""

    def __init__(self, engine: OwnEngine, refused: str) -> None:
        self.engine, self.refused, self.asked = engine, refused, dict[str, AnswerRequest]()

    @property
    def ends(self) -> Target:
        return self.engine.ends

    def answer(self, requests: Mapping[str, AnswerRequest], **more: Any) -> dict[str, Answer]:
        self.asked = dict(requests)
        return {**self.engine.answer(requests, **more), self.refused: Answer([], "error", error="no room")}


def test_a_request_that_an_engine_cannot_answer_costs_its_own_sample_alone(tiny_target: Target) -> None:
    many = prompts("the", "and the user", "c" * 600, "other")
    own = generate(OwnEngine(tiny_target), many, CONFIG, seed=0)
    engine = Partial(OwnEngine(tiny_target), "p1")
    made = generate(engine, many, CONFIG, seed=0)
    assert list(engine.asked) == ["p0", "p1", "p3"]
    assert all(each.params.max_new_tokens == 10 and each.params.temperature == 0.0 for each in engine.asked.values())
    assert [(each.sample_id, each.token_ids) for each in made.samples] == [
        (each.sample_id, each.token_ids) for each in own.samples if each.sample_id != "p1"
    ]
    assert [(row.sample_id, row.reason) for row in made.skipped[1:]] == [("p1", "no room")]
