"""Penalties, truncation, bias and suppressed tokens through the endpoint, and what a model's own file says instead.

Oracle: the engine alone with the same values, without an endpoint and a draft (its own oracle is transformers:
`test_shaping`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from engine_helpers import DraftMaker
from live_endpoint import LiveEndpoint, live_endpoint, make_pair

from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.decoding.variants import BASE
from eda_service.drafts.head import DraftHead
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.files.generation_defaults import GenerationDefaults
from eda_service.targets.loader import Target

QUESTION = [{"role": "user", "content": "the other user and the assistant"}]
OWN = GenerationDefaults(
    temperature=0.0, repetition_penalty=1.8, max_new_tokens=12, suppress_token_ids=frozenset({40, 41})
)
NEUTRAL = {"temperature": 0, "repetition_penalty": 1.0, "suppress_tokens": [], "max_tokens": 12}
ASKED: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 2.5},
    "presence_penalty": {"presence_penalty": 2.0},
    "frequency_penalty": {"frequency_penalty": -2.0},
    "suppress_tokens": {"suppress_tokens": list(range(20, 30))},
    "logit_bias": {"logit_bias": {"50": 100, "51": -3.5}},
    "top_k": {"temperature": 1.0, "top_k": 2, "seed": 3},
    "min_p": {"temperature": 1.0, "min_p": 0.4, "seed": 3},
}


@pytest.fixture(scope="module")
def endpoint(tiny_target: Target, make_fitted_draft: DraftMaker) -> Iterator[LiveEndpoint]:
    target = dataclasses.replace(tiny_target, defaults=OWN)
    head = DraftHead(target.lm_head, None)
    drafting = Engine(target, make_fitted_draft("llama"), head, num_draft_tokens=4, max_batch=4, max_tokens=200)
    plain = Engine(target, max_batch=4, max_tokens=200)
    choosing = dataclasses.replace(make_pair("tiny", target, drafting), drafts=lambda: {"base": BASE})
    with live_endpoint([choosing, make_pair("plain", target, plain)]) as running:
        yield running


def post(endpoint: LiveEndpoint, path: str = "chat/completions", **body: Any) -> Any:
    prompt = {"messages": QUESTION} if path.startswith("chat") else {"prompt": "the user and"}
    answer = httpx.post(f"{endpoint.url}/v1/{path}", json={"model": "tiny", **prompt, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def alone(target: Target, **params: Any) -> str:
    engine = Engine(target, max_batch=1, max_tokens=200)
    engine.submit("r", render_prompt(target.tokenizer, QUESTION), SamplingParams(**{"max_new_tokens": 12} | params))
    ids = [token for output in run_to_end(engine)["r"] for token in output.new_token_ids]
    return str(target.tokenizer.decode(ids, skip_special_tokens=True))


def test_every_parameter_reaches_the_engine(endpoint: LiveEndpoint, tiny_target: Target) -> None:
    names = {"suppress_tokens": "suppress_token_ids"}
    for name, asked in ASKED.items():
        params = {names.get(key, key): value for key, value in asked.items()}
        if "logit_bias" in params:
            params["logit_bias"] = tuple((int(token), float(bias)) for token, bias in params["logit_bias"].items())
        if "suppress_token_ids" in params:
            params["suppress_token_ids"] = frozenset(params["suppress_token_ids"])
        model = "plain" if "seed" in asked else "tiny"  # a chain's draws are not those of decoding without a draft
        text = post(endpoint, **{**NEUTRAL, **asked, "model": model})["choices"][0]["message"]["content"]
        assert text == alone(tiny_target, **params), name
        without = {key: value for key, value in params.items() if key in {"temperature", "seed"}}
        assert text != alone(tiny_target, **without), name


def test_what_a_request_leaves_out_is_the_models_own(endpoint: LiveEndpoint, tiny_target: Target) -> None:
    own = {"repetition_penalty": 1.8, "suppress_token_ids": OWN.suppress_token_ids}
    answer = post(endpoint, logprobs=True)
    assert answer["choices"][0]["message"]["content"] == alone(tiny_target, **own) != alone(tiny_target)
    assert answer["usage"]["completion_tokens"] == 12
    assert post(endpoint, **dict.fromkeys(NEUTRAL))["choices"][0]["message"] == answer["choices"][0]["message"]
    assert post(endpoint, **NEUTRAL)["choices"][0]["message"]["content"] == alone(tiny_target)
    assert post(endpoint, max_tokens=20)["usage"]["completion_tokens"] == 20
    assert post(endpoint, "completions")["usage"]["completion_tokens"] == 16  # OpenAI's default
    bare = post(endpoint, **NEUTRAL, logprobs=True)["choices"][0]["logprobs"]["content"]
    scored = answer["choices"][0]["logprobs"]["content"]
    assert bare[0]["logprob"] >= scored[0]["logprob"]  # of the raw logits, whose argmax the first one is


def test_the_openai_client_sends_them_as_extra_body(endpoint: LiveEndpoint, tiny_target: Target) -> None:
    extra = {"repetition_penalty": 2.5, "suppress_tokens": [], "top_k": 4}
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "tiny", "messages": QUESTION, "temperature": 0, "frequency_penalty": 0.5}
        answer = client.chat.completions.create(**asked, extra_body=extra)
        stream = client.chat.completions.create(**asked, extra_body=extra, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    wanted = alone(tiny_target, repetition_penalty=2.5, frequency_penalty=0.5)
    assert answer.choices[0].message.content == streamed == wanted


def test_what_drafts_is_chosen_by_the_request_and_the_text_stays(endpoint: LiveEndpoint) -> None:
    own, base, none = (post(endpoint, temperature=0, draft=draft) for draft in (None, "base", "none"))
    texts = {each["choices"][0]["message"]["content"] for each in (own, base, none)}
    assert len(texts) == 1
    drafted = [each["metrics"]["speculative_decoding"]["num_draft_tokens"] for each in (own, base, none)]
    assert drafted[0] == drafted[1] > drafted[2] == 0


@pytest.mark.parametrize(("model", "draft"), [("tiny", "stranger@1"), ("plain", "none")])
def test_a_draft_that_is_not_there_is_refused(endpoint: LiveEndpoint, model: str, draft: str) -> None:
    body = {"model": model, "messages": QUESTION, "draft": draft}
    answer = httpx.post(f"{endpoint.url}/v1/chat/completions", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "draft")
