"""Requests with anything at any depth: an answer, or a 4xx that names the field; never a 5xx.

The bodies are a good request with values replaced, added or taken away at random places, from a fixed seed.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live_endpoint import LiveEndpoint, live_endpoint, make_pair

from eda_service.decoding.engine import Engine
from eda_service.targets.loader import Target

NUM_BODIES = 150
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}\n"
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}{{ documents | tojson }}{{ enable_thinking }}"
    "{{ reasoning_effort }}{# 'tool' #}"
)
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "developer", "content": "the"},
        {"role": "user", "content": [{"type": "text", "text": "the"}, {"type": "text", "text": "user"}], "name": "n"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "and"},
        {"role": "tool", "content": "one", "tool_call_id": "c"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "none",
    "documents": [{"title": "t", "text": "the"}],
    "chat_template_kwargs": {"enable_thinking": False, "more": {"a": [1]}},
    "reasoning_effort": "low",
    "add_generation_prompt": True,
    "continue_final_message": False,
    "max_tokens": 1,
    "temperature": 0,
    "stop": ["x"],
    "stop_token_ids": [5],
    "logprobs": True,
    "top_logprobs": 1,
    "stream_options": {"include_usage": True},
    "response_format": {"type": "text"},
    "metadata": {"k": "v"},
}
TEXT: dict[str, Any] = {
    "model": "tiny",
    "prompt": ["the", "user"],
    "max_tokens": 1,
    "logprobs": 1,
    "echo": True,
    "stop": ["x"],
    "stream_options": {"include_usage": True},
    "logit_bias": {},
}


def nested(depth: int, *, in_lists: bool) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value] if in_lists else {"a": value}
    return value


HOSTILE = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2.5,
        10**30,
        -(10**30),
        2**63,
        1e308,
        "",
        "x",
        "\x00",
        "\ud800",
        "a\udfffb",
        "\U0001f680",
    ),
    *([], [[]], {}, [None], [{}], {"": None}, {"type": None}, {"type": "text"}, {"type": "image_url"}, "NaN-here"),
    *({"\ud800": 1}, {"role": "user"}, {"a": "\ud83d"}, ["\ud800"], [True] * 200, "the " * 300),
    *(nested(40, in_lists=True), nested(200, in_lists=True), nested(400, in_lists=False), nested(40, in_lists=False)),
]
NAMES = ("x", "", "\ud800", "no such <thing>", "id", "tool_calls", "content")


@pytest.fixture(scope="module")
def endpoint(tiny_target: Target) -> Iterator[LiveEndpoint]:
    pair = make_pair("tiny", tiny_target, Engine(tiny_target, max_batch=4, max_tokens=400), max_waiting=28)
    tokenizer = copy.deepcopy(tiny_target.tokenizer)
    tokenizer.chat_template = TEMPLATE
    with live_endpoint([dataclasses.replace(pair, tokenizer=tokenizer)]) as running:
        yield running


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a body but the whole."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*at, key)
        yield from places(each, (*at, key))


def spoilt(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A body with one or two places spoilt."""
    made = copy.deepcopy(body)
    for _ in range(rng.choice((1, 1, 2))):
        *way, last = rng.choice(list(places(made)))
        holder = made
        for key in way:
            holder = holder[key]
        deed = rng.randrange(8)
        if deed == 0:
            del holder[last]
        elif deed == 1 and isinstance(holder, dict):
            holder[rng.choice(("x", "", "\ud800", "no such <thing>", "id", "tool_calls", "content"))] = rng.choice(
                HOSTILE
            )
        else:
            holder[last] = copy.deepcopy(rng.choice(HOSTILE))
    return made


def sent(endpoint: LiveEndpoint, client: httpx.Client, path: str, body: Any) -> httpx.Response:
    content = json.dumps(body).replace('"NaN-here"', "NaN").encode()  # `json` writes half pairs as escapes
    headers = {"content-type": "application/json"}
    return client.post(f"{endpoint.url}/v1/{path}", content=content, headers=headers, timeout=60)


@pytest.mark.parametrize(("path", "good"), [("chat/completions", CHAT), ("completions", TEXT)])
def test_no_spoilt_body_breaks_the_endpoint(endpoint: LiveEndpoint, path: str, good: dict[str, Any]) -> None:
    rng, statuses = random.Random(path), set()
    with httpx.Client() as client:
        assert sent(endpoint, client, path, good).status_code == 200
        for _ in range(NUM_BODIES):
            body = spoilt(good, rng)
            answer = sent(endpoint, client, path, body)
            statuses.add(answer.status_code)
            assert answer.status_code in {200, 400, 404}, (body, answer.text)
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert error["param"], (body, error)
                assert len(answer.content) < 4000
    assert statuses >= {200, 400}
    endpoint.wait_idle()
