"""Chat template to token ids: the prompt's end, a user turn's opening, and every stop token.

Oracle: the tests' template written out and tokenised.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from eda_service.errors import DatasetInvalidError, TargetIncompatibleError
from eda_service.targets.chat.chat import load_stop_token_ids, render_prompt, user_turn_opening
from eda_service.targets.loader import Target


@pytest.fixture
def tokenizer(tiny_target: Target) -> PreTrainedTokenizerFast:
    """A copy whose template a test may change."""
    made: PreTrainedTokenizerFast = copy.deepcopy(tiny_target.tokenizer)
    return made


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_prompt_ends_where_the_answer_begins(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "the one"},
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "an"},
        {"role": "user", "content": "and\nthe other?"},
    ]
    wanted = (
        "<|im_start|>system\nthe one<|im_end|>\n<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\nan<|im_end|>\n"
        "<|im_start|>user\nand\nthe other?<|im_end|>\n<|im_start|>assistant\n"
    )
    got = render_prompt(tokenizer, messages)
    assert got == ids_of(tokenizer, wanted)
    assert tokenizer.decode(got) == wanted
    assert all(type(token) is int for token in got)


def test_special_tokens_of_the_template_are_single_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    got = render_prompt(tokenizer, [{"role": "user", "content": "a"}])
    assert [token for token in got if token < 3] == [1, 2, 1]  # <|im_start|>, <|im_end|>, <|im_start|>


def test_no_chat_template_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    with pytest.raises(TargetIncompatibleError, match=r"has no chat template; add chat_template\.jinja") as caught:
        render_prompt(tokenizer, [{"role": "user", "content": "a"}])
    assert caught.value.param == "target.model"


def test_what_the_template_refuses_is_an_input_error(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ raise_exception('system is not supported') }}"
    with pytest.raises(DatasetInvalidError, match="system is not supported") as caught:
        render_prompt(tokenizer, [{"role": "user", "content": "a"}])
    assert caught.value.param == "messages"


def test_opening_of_a_user_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    assert user_turn_opening(tokenizer) == ids_of(tokenizer, "<|im_start|>user\n")


def test_opening_holds_the_template_s_default_system_message(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "<|im_start|>system\nthe one<|im_end|>\n" + str(tokenizer.chat_template)
    assert user_turn_opening(tokenizer) == ids_of(
        tokenizer, "<|im_start|>system\nthe one<|im_end|>\n<|im_start|>user\n"
    )


def test_a_template_that_rewrites_user_text_cannot_write_prompts(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(TargetIncompatibleError, match="does not place the user's text verbatim") as caught:
        user_turn_opening(tokenizer)
    assert caught.value.param == "dataset.source"


@pytest.mark.parametrize(
    ("generation", "config", "wanted"),
    [
        (None, None, {2}),
        (5, None, {2, 5}),
        ([7, 9], None, {2, 7, 9}),
        (None, 6, {2, 6}),
        ([7], [8, True, -1, "9"], {2, 7, 8}),
    ],
)
def test_stops_are_those_that_the_files_name(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, generation: object, config: object, wanted: set[int]
) -> None:
    """The tokenizer's <|im_end|> (2) and the two configs'; <|endoftext|> (0) is a token like any other here."""
    for name, value in (("generation_config.json", generation), ("config.json", config)):
        if value is not None:
            (tmp_path / name).write_text(json.dumps({"eos_token_id": value}))
    assert load_stop_token_ids(tmp_path, tokenizer) == wanted
