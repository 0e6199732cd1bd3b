"""What the endpoint does not take is an error body of OpenAI's shape that names the parameter; what clients send by
default is taken. Random bodies never make a 5xx.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_endpoint import LiveEndpoint, live_endpoint, make_pair

from api.endpoint.protocol.requests import ChatRequest, CompletionRequest
from eda_service.decoding.engine import Engine
from eda_service.targets.loader import Target

QUESTION = [{"role": "user", "content": "the user"}]
CHAT: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "max_tokens": 4}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "the user", "max_tokens": 4}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.fixture(scope="module")
def endpoint(tiny_target: Target) -> Iterator[LiveEndpoint]:
    engine = Engine(tiny_target, max_batch=4, max_tokens=200)
    with live_endpoint([make_pair("tiny", tiny_target, engine, max_waiting=28)]) as running:
        yield running


def refusal(endpoint: LiveEndpoint, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    answer = httpx.post(f"{endpoint.url}/v1/{path}", json=body, timeout=60)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"tools": [TOOL]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"length_penalty": 2}, "length_penalty", "unsupported_parameter"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_request"),
        ({"logit_bias": {"the": 1}}, "logit_bias", "invalid_request"),
        ({"logit_bias": {"112": 1}}, "logit_bias", "invalid_request"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias", "invalid_request"),
        ({"frequency_penalty": 2.1}, "frequency_penalty", "invalid_request"),
        ({"presence_penalty": -2.1}, "presence_penalty", "invalid_request"),
        ({"frequency_penalty": False}, "frequency_penalty", "invalid_request"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_request"),
        ({"top_k": -2}, "top_k", "invalid_request"),
        ({"top_k": 2.5}, "top_k", "invalid_request"),
        ({"min_p": 1.1}, "min_p", "invalid_request"),
        ({"suppress_tokens": [112]}, "suppress_tokens", "invalid_request"),
        ({"suppress_tokens": list(range(112))}, "suppress_tokens", "invalid_request"),
        ({"best_of": 3}, "best_of", "unsupported_parameter"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice", "unsupported_parameter"),
        ({"tools": [TOOL], "tool_choice": "none"}, "tools", "unsupported_parameter"),  # the template takes none
        ({"tools": [{"type": "function"}], "tool_choice": "none"}, "tools.0.function", "invalid_request"),
        ({"documents": [{"text": "the"}]}, "documents", "unsupported_parameter"),
        ({"documents": [{"text": 5}]}, "documents.0.text", "invalid_request"),
        ({"add_special_tokens": True}, "add_special_tokens", "unsupported_parameter"),
        ({"chat_template": "x"}, "chat_template", "unsupported_parameter"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize", "unsupported_parameter"),
        ({"chat_template_kwargs": {"tools": [TOOL]}}, "chat_template_kwargs.tools", "invalid_request"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs", "invalid_request"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
            "invalid_request",
        ),
        ({"messages": QUESTION, "continue_final_message": 1}, "continue_final_message", "invalid_request"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"no_such_thing": 1}, "no_such_thing", "unsupported_parameter"),
        ({"no such <thing>": 1}, "?", "unsupported_parameter"),
        ({"n": 17}, "n", "invalid_request"),
        ({"n": 0}, "n", "invalid_request"),
        ({"temperature": 2.1}, "temperature", "invalid_request"),
        ({"temperature": "0.5"}, "temperature", "invalid_request"),
        ({"temperature": True}, "temperature", "invalid_request"),
        ({"top_p": 0}, "top_p", "invalid_request"),
        ({"max_tokens": 0}, "max_tokens", "invalid_request"),
        ({"max_tokens": 4.5}, "max_tokens", "invalid_request"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "invalid_request"),
        ({"max_tokens": 100_000}, "max_tokens", "context_length_exceeded"),
        ({"max_tokens": None, "max_completion_tokens": 200}, "max_tokens", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "the " * 400}]}, "messages", "context_length_exceeded"),
        ({"messages": []}, "messages", "invalid_request"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "unsupported_parameter"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages.0.role", "invalid_request"),
        ({"messages": [*QUESTION, {"role": "user", "content": None}]}, "messages.1.content", "invalid_request"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "invalid_request"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "invalid_request"),
        (
            {"messages": [{"role": "user", "content": ["a", {"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.1",
            "unsupported_parameter",
        ),
        ({"messages": [{"role": "user", "content": ["a", 5]}]}, "messages.0.content.1", "invalid_request"),
        ({"messages": [{**QUESTION[0], "shout": True}]}, "messages.0.shout", "unsupported_parameter"),
        ({"messages": [{**QUESTION[0], "tool_calls": [TOOL]}]}, "messages.0.tool_calls", "unsupported_parameter"),
        (
            {"messages": [*QUESTION, {"role": "assistant", "tool_calls": [TOOL]}]},  # the template takes none
            "messages.1.tool_calls",
            "unsupported_parameter",
        ),
        ({"stop": [""]}, "stop", "invalid_request"),
        ({"stop": ["a"] * 17}, "stop", "invalid_request"),
        ({"stop_token_ids": [100_000]}, "stop", "invalid_request"),
        ({"min_tokens": 5}, "min_tokens", "invalid_request"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_request"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_request"),
        ({"logprobs": 5}, "logprobs", "invalid_request"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"seed": 2**64}, "seed", "invalid_request"),
        ({"model": ""}, "model", "invalid_request"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_request"),
    ],
)
def test_chat_refuses_by_name(
    endpoint: LiveEndpoint, changes: dict[str, Any], param: str, code: str, stream: bool
) -> None:
    error = refusal(endpoint, "chat/completions", {**CHAT, **changes, "stream": stream})
    assert (error["param"], error["code"]) == (param, code)
    assert endpoint.runner().num_open == 0


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"logprobs": 6}, "logprobs", "invalid_request"),
        ({"logprobs": True}, "logprobs", "invalid_request"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"messages": QUESTION}, "messages", "unsupported_parameter"),
        ({"prompt": []}, "prompt", "invalid_request"),
        ({"prompt": [[]]}, "prompt", "invalid_request"),
        ({"prompt": ""}, "prompt", "invalid_request"),
        ({"prompt": ["a", 5]}, "prompt", "invalid_request"),
        ({"prompt": [True]}, "prompt", "invalid_request"),
        ({"prompt": {"text": "a"}}, "prompt", "invalid_request"),
        ({"prompt": [5, -1]}, "prompt", "invalid_request"),
        ({"prompt": [5, 112]}, "prompt", "invalid_request"),
        ({"prompt": [5, 10**30]}, "prompt", "invalid_request"),
        ({"prompt": [5, 112], "echo": True}, "prompt", "invalid_request"),
        ({"prompt": ["a"] * 65}, "prompt", "invalid_request"),
        ({"prompt": ["a"] * 16, "n": 3}, "n", "invalid_request"),
        ({"prompt": [5] * 200}, "prompt", "context_length_exceeded"),
        ({"prompt": ["ok", "the " * 400]}, "prompt", "context_length_exceeded"),
        ({"prompt": [5] * 197}, "max_tokens", "context_length_exceeded"),
        ({"max_tokens": -1}, "max_tokens", "invalid_request"),
    ],
)
def test_completions_refuse_by_name(endpoint: LiveEndpoint, changes: dict[str, Any], param: str, code: str) -> None:
    error = refusal(endpoint, "completions", {**TEXT, **changes})
    assert (error["param"], error["code"]) == (param, code)
    assert endpoint.runner().num_open == 0


def test_what_clients_send_by_default_is_taken(endpoint: LiveEndpoint) -> None:
    plain = httpx.post(f"{endpoint.url}/v1/chat/completions", json={**CHAT, "temperature": 0}, timeout=60).json()
    extra = {
        **{"user": "u", "store": False, "metadata": {"k": "v"}, "service_tier": "auto", "parallel_tool_calls": True},
        **{"tools": None, "tool_choice": "auto", "response_format": {"type": "text"}, "logit_bias": {}, "n": None},
        **{"frequency_penalty": 0.0, "presence_penalty": 0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
        **{"stop": None, "seed": None, "top_p": None, "stream": None, "logprobs": False, "top_logprobs": None},
        **{"best_of": 1, "skip_special_tokens": True, "prompt_cache_key": "k", "safety_identifier": "s"},
        **{"echo": False, "suffix": None, "documents": None, "ignore_eos": None, "min_tokens": None, "nobody": None},
        **{"chat_template_kwargs": {"enable_thinking": False, "add_generation_prompt": True}, "name": "n"},
        **{"stream_options": {"include_usage": None}, "add_generation_prompt": True, "function_call": None},
    }
    answer = httpx.post(
        f"{endpoint.url}/v1/chat/completions", json={**CHAT, "temperature": 0, **extra}, timeout=60
    ).json()
    assert answer["choices"] == plain["choices"]


def test_an_answer_can_be_sent_back_as_it_came(endpoint: LiveEndpoint) -> None:
    """Clients append `message.model_dump()`, with every field OpenAI's type has, and list parts; roles are in turn."""
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
        first = client.chat.completions.create(**CHAT)
        said = first.choices[0].message.model_dump()
        assert {"refusal", "tool_calls", "annotations"} <= set(said)
        parts = [{"type": "text", "text": "the"}, {"type": "text", "text": "user", "cache_control": None}]
        joined = {"role": "user", "content": "the\nuser"}  # as vLLM joins them
        turns = [{"role": "developer", "content": "be brief"}, {**QUESTION[0], "name": "me"}, said]
        extra = {"reasoning_content": None, "cache_control": {"type": "ephemeral"}, "type": "text"}
        listed = client.chat.completions.create(
            **{**CHAT, "messages": [*turns, {"role": "user", "content": parts, **extra}]}, temperature=0
        )
        plain = client.chat.completions.create(
            **{**CHAT, "messages": [{"role": "system", "content": "be brief"}, *turns[1:], joined]}, temperature=0
        )
    assert listed.choices == plain.choices
    assert listed.usage == plain.usage


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "invalid_request"),
        (b"[]", 400, "invalid_request"),
        (b'"text"', 400, "invalid_request"),
        (b"\xff\xfe", 400, None),
        (b'{"model": "tiny", "prompt": "\\ud800"}', 400, "invalid_request"),
        (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', 400, "invalid_request"),
        (b'{"model": "tiny", "prompt": "a", "temperature": Infinity}', 400, "invalid_request"),
        (b'{"model": "tiny", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, None),
        (b'{"model": "tiny", "prompt": "' + b"a" * (2 << 20) + b'"}', 413, "request_too_large"),
    ],
    ids=range(10),
)
def test_broken_bodies(endpoint: LiveEndpoint, content: bytes, status: int, code: str | None) -> None:
    answer = httpx.post(
        f"{endpoint.url}/v1/completions", content=content, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert code is None or error["code"] == code
    assert len(answer.content) < 4000


def test_an_unknown_model_is_404(endpoint: LiveEndpoint) -> None:
    error = refusal(endpoint, "chat/completions", {**CHAT, "model": "nobody"}, 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(width=32) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def bodies(model: type[ChatRequest | CompletionRequest], base: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A good body with up to four of its fields replaced by anything, or by a number near the bounds."""
    near = st.integers(-2, 40) | st.sampled_from([0, 1, 2, 0.5, -1, True, "tiny", ["a"], [5], [[5], [6]], "the"])
    fields = st.sampled_from(sorted(model.model_fields) + sorted(model.ignorable))
    return st.dictionaries(fields, near | _JSON, max_size=4).map(lambda changes: {**base, **changes})


def check_body(endpoint: LiveEndpoint, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    answer = httpx.post(
        f"{endpoint.url}/v1/{path}", content=content, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code in {200, 400, 404}, (body, answer.text)
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


FUZZ = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@FUZZ
@given(body=bodies(ChatRequest, CHAT))
def test_no_chat_body_breaks_the_endpoint(endpoint: LiveEndpoint, body: dict[str, Any]) -> None:
    check_body(endpoint, "chat/completions", body)


@FUZZ
@given(body=bodies(CompletionRequest, TEXT))
def test_no_completion_body_breaks_the_endpoint(endpoint: LiveEndpoint, body: dict[str, Any]) -> None:
    check_body(endpoint, "completions", body)


def test_afterwards_it_still_answers(endpoint: LiveEndpoint) -> None:
    endpoint.wait_idle()
    assert httpx.post(f"{endpoint.url}/v1/completions", json=TEXT, timeout=60).status_code == 200
