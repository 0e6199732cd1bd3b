"""Bodies as clients send them mean what the plain body means; what would change the answer is named with its value."""

from __future__ import annotations

from typing import Any

import pytest

from api.endpoint.protocol.requests import ChatRequest, CompletionRequest
from eda_service.errors import RequestError
from eda_service.targets.chat.conversation import TemplateOptions, ToolCall, Turn

ASKED = [{"role": "user", "content": "the user"}]
PLAIN: dict[str, Any] = {"model": "m", "messages": ASKED, "max_tokens": 4, "temperature": 0}
TEXT: dict[str, Any] = {"model": "m", "prompt": "the user", "max_tokens": 4, "temperature": 0}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "the user"}]}]
CALL = {"id": "c", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}

CHAT_BODIES: dict[str, dict[str, Any]] = {
    "lm-eval": {"messages": [{**ASKED[0], "type": "text"}], "seed": None, "stop": None},
    "GuideLLM": {"messages": PARTS, "max_completion_tokens": 4, "stop": None, "n": None, "stream_options": {}},
    "vLLM's bench": {"messages": PARTS, "max_completion_tokens": 4, "repetition_penalty": 1.0, "logprobs": False},
    "LangChain": {"n": 1, "stream": False, "logprobs": None, "parallel_tool_calls": None, "store": False},
    "LiteLLM": {
        "messages": [
            {**ASKED[0], "cache_control": {"type": "ephemeral"}, "provider_specific_fields": {"refusal": None}}
        ],
        **{"extra_body": {}, "metadata": {"trace": "x"}, "user": "u", "service_tier": "flex"},
    },
    "LlamaIndex": {"messages": [{**ASKED[0], "name": None, "function_call": None}], "tools": None, "tool_choice": None},
    "Open WebUI": {"chat_id": "c", "session_id": "s", "metadata": {"files": []}, "stream_options": None},
    "continue.dev": {"tools": [], "stop": [], "prediction": {"type": "content", "content": "the"}},
    "an SDK's dump": {
        **dict.fromkeys(
            ("audio", "functions", "function_call", "modalities", "moderation", "reasoning_effort", "verbosity")
        ),
        **dict.fromkeys(
            ("web_search_options", "response_format", "logit_bias", "best_of", "suffix", "safety_identifier")
        ),
        **dict.fromkeys(("ignore_eos", "min_tokens", "tool_choice", "chat_template_kwargs", "documents", "made_up")),
    },
}
TEXT_BODIES: dict[str, dict[str, Any]] = {
    "lm-eval": {"prompt": ["the user"], "seed": 1234, "logprobs": None, "echo": False},
    "vLLM's bench": {"repetition_penalty": 1.0, "best_of": 1, "logprobs": None, "suffix": None},
    "LangChain": {"n": 1, "best_of": 1, "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "top_p": 1},
    "chat's way": {"logprobs": False, "stream_options": None, "user": "u", "add_special_tokens": True},
}


@pytest.mark.parametrize("client", CHAT_BODIES)
def test_a_chat_body_means_what_the_plain_one_means(client: str) -> None:
    plain, sent = (ChatRequest.model_validate({**PLAIN, **changes}) for changes in ({}, CHAT_BODIES[client]))
    assert [each.turn() for each in sent.messages] == [Turn("user", ("the user",))]
    assert sent.template_options() == plain.template_options() == TemplateOptions()
    assert (sent.cap, sent.num_answers, sent.stops, sent.num_logprobs) == (4, 1, [], None)
    assert (sent.min_tokens, sent.ignore_eos, sent.options) == (0, False, plain.options)


@pytest.mark.parametrize("client", TEXT_BODIES)
def test_a_text_body_means_what_the_plain_one_means(client: str) -> None:
    sent = CompletionRequest.model_validate({**TEXT, **TEXT_BODIES[client]})
    assert (sent.prompts, sent.cap, sent.num_answers, sent.num_logprobs) == (["the user"], 4, 1, None)


def test_a_conversation_with_everything() -> None:
    messages = [
        {"role": "developer", "content": ["be", {"type": "input_text", "text": "brief"}]},
        {"role": "user", "content": [{"type": "text", "text": None}, {"type": "text", "text": "the"}], "name": "me"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL], "refusal": None},
        {"role": "tool", "content": [{"type": "text", "text": "4"}], "tool_call_id": "c"},
        {"role": "assistant", "tool_calls": [], "annotations": [{"type": "url_citation"}], "audio": None},
        {"role": "user", "content": "", "reasoning_content": None, "tool_calls": None, "tool_call_id": None},
    ]
    tool = {"type": "function", "cache_control": {}, "function": {"name": "f", "strict": None, "more": 1}}
    body = {"model": "m", "messages": messages, "tools": [tool, {**tool, "function": {"name": "g", "strict": True}}]}
    request = ChatRequest.model_validate({**body, "tool_choice": "none", "continue_final_message": True})
    assert [each.turn() for each in request.messages] == [
        Turn("developer", ("be", "brief")),
        Turn("user", ("the",), name="me"),
        Turn("assistant", (), reasoning="hm", tool_calls=(ToolCall("f", "{}", "c"),)),
        Turn("tool", ("4",), tool_call_id="c"),
        Turn("assistant", ()),
        Turn("user", ("",)),
    ]
    bare = {"name": "f", "description": None, "parameters": None}
    assert request.template_options() == TemplateOptions(
        tools=[
            {"type": "function", "function": bare},
            {"type": "function", "function": {**bare, "name": "g", "strict": True}},
        ],
        add_generation_prompt=False,
        continue_final_message=True,
    )


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"length_penalty": 2}, "length_penalty", ("is 2,", "leave it out", "1")),
        ({"response_format": {"type": "json_object"}}, "response_format", ("an object", '{"type": "text"}')),
        ({"verbosity": "high"}, "verbosity", ("'high'", "'medium'")),
        ({"echo": True}, "echo", ("is true,", "false")),
        ({"modalities": ["a <b>"]}, "modalities", ("a list",)),
        ({"verbosity": "secret words"}, "verbosity", ("a text",)),
        ({"enable_thinking": False}, "enable_thinking", ("chat_template_kwargs",)),
        ({"messages": [{**ASKED[0], "audio": {"id": "x"}}]}, "messages.0.audio", ("an object", "null")),
        ({"messages": [*ASKED, {"role": "user", "content": [{"type": "file"}]}]}, "messages.1.content.0", ("'file'",)),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages.0.content.0",
            ("string",),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]},
            "messages.0.content.0.x",
            (),
        ),
        ({"tools": [{"function": {"name": "f"}}]}, "tools", ("tool_choice to none",)),
        ({"tool_choice": {"type": "function"}}, "tool_choice", ("not parsed",)),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs.add_generation_prompt", ()),
    ],
)
def test_what_would_change_the_answer_is_refused_with_its_value(
    changes: dict[str, Any], param: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(RequestError) as caught:
        ChatRequest.model_validate({**PLAIN, **changes})
    assert caught.value.param == param
    for word in words:
        assert word in caught.value.message
    assert "secret" not in caught.value.message
