"""Prompts the target writes itself: distinct, long enough, finished, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.engines.engine import Answer
from eda_service.engines.own import OwnEngine
from eda_service.errors import DatasetInvalidError
from eda_service.selfgen.generate import sample_seed
from eda_service.selfgen.magpie import write_prompts
from eda_service.targets.chat.chat import user_turn_opening
from eda_service.targets.loader import Target


def write(target: Target, count: int, *, seed: int = 0, max_new_tokens: int = 96) -> list[str]:
    prompts = write_prompts(OwnEngine(target), count, seed=seed, batch_size=32, max_new_tokens=max_new_tokens)
    assert [prompt.id for prompt in prompts] == [f"self-{i:06d}" for i in range(count)]
    assert all([message["role"] for message in prompt.messages] == ["user"] for prompt in prompts)
    return [prompt.messages[0]["content"] for prompt in prompts]


def test_prompts_are_distinct_and_long_enough(tiny_target: Target) -> None:
    texts = write(tiny_target, 20)
    assert len(set(texts)) == 20
    assert all(len(text) >= 12 and text == text.strip() for text in texts)
    assert not any("<|im_" in text or "<|endoftext|>" in text for text in texts)


def test_the_seed_decides(tiny_target: Target) -> None:
    assert write(tiny_target, 8) == write(tiny_target, 8)
    assert write(tiny_target, 8) != write(tiny_target, 8, seed=1)


def test_a_prompt_is_the_continuation_of_an_opened_user_turn(tiny_target: Target) -> None:
    """The first prompt, again by hand: opening, T=1, top_p 0.95, the first stream that gives a usable turn."""
    wanted = write(tiny_target, 1)[0]
    for i in range(5):
        engine = Engine(tiny_target, max_tokens=300)
        params = SamplingParams(temperature=1.0, top_p=0.95, max_new_tokens=96, seed=sample_seed(0, f"self-0-{i}"))
        engine.submit("r", user_turn_opening(tiny_target.tokenizer), params)
        outputs = run_to_end(engine)["r"]
        tokens = [token for output in outputs for token in output.new_token_ids]
        text = tiny_target.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if outputs[-1].finish_reason == "stop" and len(text) >= 12:
            assert text == wanted
            return
    pytest.fail("no usable turn among the first five streams")


def test_a_target_that_never_ends_a_turn_is_an_error(tiny_target: Target) -> None:
    import dataclasses

    endless = dataclasses.replace(tiny_target, stop_token_ids=frozenset())
    with pytest.raises(
        DatasetInvalidError, match=r"wrote 0 usable prompts of 4 wanted; lower dataset\.num_prompts"
    ) as caught:
        write(endless, 4, max_new_tokens=8)
    assert caught.value.param == "dataset.source"


@pytest.mark.parametrize("usable_share", [0.5, 0.3])
def test_a_target_that_writes_few_usable_turns_is_asked_for_more(
    tiny_target: Target, monkeypatch: pytest.MonkeyPatch, usable_share: float
) -> None:
    """Most turns are thrown away here; eight rounds of a fixed 1.3 times what is missing would not be enough."""
    from eda_service.selfgen import magpie

    usable, rounds = magpie._usable, []

    def few(turns: Iterable[Answer], tokenizer: Any) -> list[str]:
        texts = usable(turns, tokenizer)
        rounds.append(len(texts))
        return texts[: int(usable_share * len(texts))]

    monkeypatch.setattr(magpie, "_usable", few)
    assert len(set(write(tiny_target, 40))) == 40
    assert 1 < len(rounds) <= 6
    assert sum(rounds) < 40 * 2 / usable_share


def test_writing_leaves_gradients_as_they_were(tiny_target: Target) -> None:
    write(tiny_target, 2)
    assert torch.is_grad_enabled()
