"""The endpoint as the unmodified `openai` client sees it: answers, streams, choices, batches, echo, log-probabilities.

Oracles: the engine alone on the same prompt; transformers' log-softmax; the `openai` package's own types, strict.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import torch
from live_endpoint import LiveEndpoint, live_endpoint, make_pair
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from transformers import PreTrainedModel

from api.endpoint.call import MAX_CHUNKS_PER_S
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.loader import Target

QUESTION: list[dict[str, str]] = [{"role": "user", "content": "the other user and the assistant"}]
PROMPT = "the user and the "


@pytest.fixture(scope="module")
def endpoint(tiny_target: Target, make_fitted_draft: Callable[[str], Draft]) -> Iterator[LiveEndpoint]:
    head = DraftHead(tiny_target.lm_head, None)
    engine = Engine(tiny_target, make_fitted_draft("llama"), head, num_draft_tokens=4, max_batch=4, max_tokens=200)
    with live_endpoint([make_pair("tiny", tiny_target, engine)]) as running:
        yield running


@pytest.fixture(scope="module")
def client(endpoint: LiveEndpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def post(endpoint: LiveEndpoint, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{endpoint.url}/v1/{path}", json={"model": "tiny", **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(endpoint: LiveEndpoint, path: str, **body: Any) -> list[dict[str, Any]]:
    """Parsed `data:` lines but the last, which must be `[DONE]`."""
    answer = httpx.post(f"{endpoint.url}/v1/{path}", json={"model": "tiny", "stream": True, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def alone(target: Target, ids: list[int], **params: Any) -> list[int]:
    """What the engine answers without an endpoint, a draft and neighbours."""
    engine = Engine(target, max_batch=1, max_tokens=200)
    engine.submit("r", ids, SamplingParams(**params))
    return [token for output in run_to_end(engine)["r"] for token in output.new_token_ids]


def text_of(target: Target, ids: list[int]) -> str:
    return str(target.tokenizer.decode(ids, skip_special_tokens=True))


def test_a_chat_answer_has_openais_shape_and_the_engines_text(
    endpoint: LiveEndpoint, client: openai.OpenAI, tiny_target: Target
) -> None:
    ids = render_prompt(tiny_target.tokenizer, QUESTION)
    wanted = alone(tiny_target, ids, max_new_tokens=20)
    raw = post(endpoint, "chat/completions", messages=QUESTION, temperature=0, max_tokens=20)
    answer = ChatCompletion.model_validate(raw, strict=True)
    assert answer.choices[0].message.content == text_of(tiny_target, wanted)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), len(wanted))
    assert answer.usage.prompt_tokens_details is not None
    assert answer.system_fingerprint == f"fp_{tiny_target.fingerprint.weights_sha256[:10]}"
    metrics = raw["metrics"]["speculative_decoding"]
    assert sum(metrics["acceptance_histogram"]) == metrics["num_spec_steps"] > 0
    assert metrics["num_spec_steps"] + metrics["num_accepted_draft_tokens"] == len(wanted) - 1
    again = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, max_tokens=20)  # type: ignore[arg-type]
    assert again.choices == answer.choices


@pytest.mark.parametrize("continuous", [False, True])
def test_a_chat_stream_adds_up(endpoint: LiveEndpoint, continuous: bool) -> None:
    asked: dict[str, Any] = {"messages": QUESTION, "temperature": 0, "max_tokens": 20}
    whole = post(endpoint, "chat/completions", **asked)
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    found = events(endpoint, "chat/completions", **asked, stream_options=options)
    chunks = [ChatCompletionChunk.model_validate(each, strict=True) for each in found]
    assert len({(each.id, each.created, each.model, each.system_fingerprint) for each in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (
        "".join(each.choices[0].delta.content or "" for each in chunks[:-1])
        == whole["choices"][0]["message"]["content"]
    )
    assert [each.choices[0].finish_reason for each in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == []
    assert found[-1]["usage"] == whole["usage"]
    assert found[-1]["metrics"] == found[-2]["metrics"] == whole["metrics"]
    if continuous:
        counts = [each["usage"]["completion_tokens"] for each in found]
        assert counts == sorted(counts)
        assert counts[-1] == 20
    else:
        assert all(each["usage"] is None for each in found[:-1])
    without = events(endpoint, "chat/completions", **asked)
    assert "usage" not in without[-1]
    assert without[-1]["metrics"] == whole["metrics"]


def test_several_answers_come_by_index_with_seeds_in_a_row(endpoint: LiveEndpoint, tiny_target: Target) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "temperature": 1.0, "seed": 7, "max_tokens": 12}
    raw = post(endpoint, "completions", **asked, n=6)  # more than the engine has slots
    answer = Completion.model_validate(raw, strict=True)
    single = [post(endpoint, "completions", **{**asked, "seed": 7 + i})["choices"][0]["text"] for i in range(6)]
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert [choice.text for choice in answer.choices] == single
    assert len(set(single)) > 3
    prompt_tokens = len(tiny_target.tokenizer(PROMPT)["input_ids"])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == prompt_tokens
    assert answer.usage.completion_tokens <= 72
    texts = [""] * 6
    reasons: list[str | None] = [None] * 6
    found = events(endpoint, "completions", **asked, n=6)
    for event in found:
        (choice,) = event["choices"]
        assert reasons[choice["index"]] is None
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"]
    assert texts == single
    assert None not in reasons
    assert ["metrics" in event for event in found] == [False] * (len(found) - 1) + [True]


def test_every_form_of_prompt(endpoint: LiveEndpoint, client: openai.OpenAI, tiny_target: Target) -> None:
    texts = [PROMPT, "one user", "ask the assistant"]
    ids = [tiny_target.tokenizer(text)["input_ids"] for text in texts]
    wanted = [text_of(tiny_target, alone(tiny_target, each, max_new_tokens=10)) for each in ids]
    forms: list[Any] = [texts[0], ids[0], texts, ids]
    for form, expected in zip(forms, [wanted[:1], wanted[:1], wanted, wanted], strict=True):
        answer = client.completions.create(model="tiny", prompt=form, temperature=0, max_tokens=10)
        assert [choice.text for choice in answer.choices] == expected
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == sum(map(len, ids[: len(expected)]))
    both = post(endpoint, "completions", prompt=texts[:2], n=2, temperature=1.0, seed=3, max_tokens=6)
    one = post(endpoint, "completions", prompt=texts[1], n=2, temperature=1.0, seed=3, max_tokens=6)
    assert [choice["text"] for choice in both["choices"][2:]] == [choice["text"] for choice in one["choices"]]


def test_chat_logprobs_are_the_targets(
    endpoint: LiveEndpoint,
    client: openai.OpenAI,
    tiny_target: Target,
    reference_model: Callable[[str], PreTrainedModel],
) -> None:
    asked: dict[str, Any] = {"messages": QUESTION, "temperature": 0, "max_tokens": 12, "logprobs": True}
    raw = post(endpoint, "chat/completions", **asked, top_logprobs=3)
    answer = ChatCompletion.model_validate(raw, strict=True)
    ids = render_prompt(tiny_target.tokenizer, QUESTION)
    new = alone(tiny_target, ids, max_new_tokens=12)
    logits_TV = reference_model("llama")(torch.tensor([ids + new])).logits[0, len(ids) - 1 : -1]
    wanted_TV = torch.log_softmax(logits_TV.double(), dim=-1)
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert len(content) == len(new)
    for entry, token, wanted_V in zip(content, new, wanted_TV, strict=True):
        assert entry.logprob == pytest.approx(float(wanted_V[token]), abs=1e-4)
        assert bytes(entry.bytes or ()).decode() == entry.token == tiny_target.tokenizer.decode([token])
        top = wanted_V.topk(3)
        assert [each.logprob for each in entry.top_logprobs] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert [each.token for each in entry.top_logprobs] == [
            tiny_target.tokenizer.decode([each]) for each in top.indices.tolist()
        ]
    streamed = client.chat.completions.create(model="tiny", stream=True, top_logprobs=3, **asked)
    parts = [entry for chunk in streamed for entry in (chunk.choices[0].logprobs or _NONE).content or ()]
    assert parts == content
    plain = post(endpoint, "chat/completions", **asked)["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in plain)


class _NONE:
    content = None


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_scores_a_prompt_as_lm_eval_reads_it(
    endpoint: LiveEndpoint,
    tiny_target: Target,
    reference_model: Callable[[str], PreTrainedModel],
    max_tokens: int,
) -> None:
    """lm-eval sums token_logprobs from the context's length on, and takes an answer for greedy when each of its tokens
    has the largest of its top_logprobs.
    """
    prompts = [tiny_target.tokenizer(text)["input_ids"] for text in ("the other user and one", "so it is")]
    asked: dict[str, Any] = {"prompt": prompts, "max_tokens": max_tokens, "logprobs": 1, "echo": True, "temperature": 0}
    raw = post(endpoint, "completions", **asked, seed=1234)
    assert raw["usage"]["completion_tokens"] == 2 * max_tokens
    for choice, ids in zip(raw["choices"], prompts, strict=True):
        logits_TV = reference_model("llama")(torch.tensor([ids])).logits[0, :-1]
        wanted_TV = torch.log_softmax(logits_TV.double(), dim=-1)
        scores = choice["logprobs"]
        assert len(scores["tokens"]) == len(ids) + max_tokens
        assert scores["token_logprobs"][0] is None
        assert scores["top_logprobs"][0] is None
        wanted = wanted_TV.gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)
        assert scores["token_logprobs"][1 : len(ids)] == pytest.approx(wanted.tolist(), abs=1e-4)
        greedy = [
            max(top.values()) == own
            for top, own in zip(scores["top_logprobs"][1:], scores["token_logprobs"][1:], strict=True)
        ]
        expected = (wanted_TV.argmax(-1) == torch.tensor(ids[1:])).tolist()
        assert greedy == expected + [True] * max_tokens
        assert "".join(scores["tokens"]).startswith(choice["text"])
        assert scores["text_offset"] == [
            len("".join(scores["tokens"][:place])) for place in range(len(scores["tokens"]))
        ]


def test_echo_puts_the_prompt_first(endpoint: LiveEndpoint) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "temperature": 0, "max_tokens": 8}
    plain = post(endpoint, "completions", **asked)["choices"][0]["text"]
    assert post(endpoint, "completions", **asked, echo=True)["choices"][0]["text"] == PROMPT + plain
    streamed = events(endpoint, "completions", **asked, echo=True)
    assert "".join(event["choices"][0]["text"] for event in streamed) == PROMPT + plain
    nothing = post(endpoint, "completions", **{**asked, "max_tokens": 0}, echo=True)
    assert nothing["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "text": PROMPT,
        "logprobs": None,
        "finish_reason": "length",
    }
    assert Completion.model_validate(nothing, strict=True).usage.completion_tokens == 0  # type: ignore[union-attr]


def test_tokens_after_a_stop_string_are_not_counted(endpoint: LiveEndpoint, tiny_target: Target) -> None:
    """Speculation may have decoded more in the same round: neither text, usage nor log-probabilities show it."""
    ids = tiny_target.tokenizer(PROMPT)["input_ids"]
    free = alone(tiny_target, ids, max_new_tokens=30)
    pieces = [text_of(tiny_target, free[: place + 1]) for place in range(30)]
    for place in range(3, 12):
        stop = pieces[place][len(pieces[place - 1]) :]
        first = next(i for i, text in enumerate(pieces) if stop in text)
        asked: dict[str, Any] = {
            "prompt": PROMPT,
            "temperature": 0,
            "max_tokens": 30,
            "logprobs": 0,
            "stop": [stop, "\n\n"],
        }
        raw = post(endpoint, "completions", **asked)
        assert raw["choices"][0]["text"] == pieces[first][: pieces[first].index(stop)]
        assert raw["choices"][0]["finish_reason"] == "stop"
        assert raw["usage"]["completion_tokens"] == first + 1
        assert len(raw["choices"][0]["logprobs"]["tokens"]) == first + 1
    endpoint.wait_idle()


def test_load_tools_get_the_length_they_ask_for(endpoint: LiveEndpoint, tiny_target: Target) -> None:
    asked: dict[str, Any] = {"prompt": [30, 40], "temperature": 2.0, "max_tokens": 150, "n": 8, "seed": 1}
    free = post(endpoint, "completions", **asked)
    assert "stop" in {choice["finish_reason"] for choice in free["choices"]}
    full = post(endpoint, "completions", **asked, ignore_eos=True)
    assert full["usage"]["completion_tokens"] == 8 * 150
    floor = post(endpoint, "completions", **{**asked, "max_tokens": 20}, min_tokens=20)
    assert floor["usage"]["completion_tokens"] == 8 * 20
    greedy = alone(tiny_target, [30, 40], max_new_tokens=20)
    by_id = post(endpoint, "completions", prompt=[30, 40], temperature=0, max_tokens=20, stop_token_ids=[greedy[4]])
    assert by_id["usage"]["completion_tokens"] == greedy.index(greedy[4]) + 1
    assert by_id["choices"][0]["text"] == text_of(tiny_target, greedy[: greedy.index(greedy[4])])


def test_the_async_client_and_many_streams_at_once(endpoint: LiveEndpoint) -> None:
    async def one(client: openai.AsyncOpenAI, seed: int) -> str:
        stream = await client.chat.completions.create(
            model="tiny",
            messages=QUESTION,
            seed=seed,
            max_tokens=30,
            stream=True,  # type: ignore[arg-type]
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def scenario() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, seed) for seed in range(20)))

    streamed = asyncio.run(scenario())
    for seed in (0, 11, 19):
        raw = post(endpoint, "chat/completions", messages=QUESTION, seed=seed, max_tokens=30)
        assert raw["choices"][0]["message"]["content"] == streamed[seed]


def test_streams_share_a_number_of_chunks_a_second(endpoint: LiveEndpoint) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "temperature": 0, "max_tokens": 100, "ignore_eos": True}
    whole = post(endpoint, "completions", **asked)
    num_streams = 8
    with ThreadPoolExecutor(num_streams) as pool:
        began = time.perf_counter()
        streams = list(pool.map(lambda _: events(endpoint, "completions", **asked), range(num_streams)))
        seconds = time.perf_counter() - began
    for chunks in streams:
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    first_and_last = 2 * num_streams
    assert sum(len(chunks) for chunks in streams) <= first_and_last + MAX_CHUNKS_PER_S * seconds


def test_models_are_listed_and_shown(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "eda"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stop", [None, "zzzz"])
def test_a_stream_can_say_which_text_the_draft_proposed(
    endpoint: LiveEndpoint, tiny_target: Target, make_fitted_draft: Callable[[str], Draft], stop: str | None
) -> None:
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 40, "ignore_eos": True}
    chunks = events(endpoint, "completions", stop=stop, stream_options={"draft_tokens": True}, **body)
    choices = [chunk["choices"][0] for chunk in chunks]
    for choice in choices:
        assert "".join(span["text"] for span in choice.get("spans", [])) == choice["text"]
    head = DraftHead(tiny_target.lm_head, None)
    engine = Engine(tiny_target, make_fitted_draft("llama"), head, num_draft_tokens=4, max_batch=1, max_tokens=200)
    ids = tiny_target.tokenizer(PROMPT)["input_ids"]
    engine.submit("r", ids, SamplingParams(max_new_tokens=40, ignore_eos=True))
    outputs = run_to_end(engine)["r"]
    assert sum(output.num_accepted for output in outputs) == outputs[-1].stats.num_accepted_tokens > 0
    accepted = "".join(text_of(tiny_target, output.new_token_ids[: output.num_accepted]) for output in outputs)
    spans = [span for choice in choices for span in choice.get("spans", [])]
    assert "".join(span["text"] for span in spans if span["accepted"]).replace(" ", "") == accepted.replace(" ", "")
    lengths = [chunk["metrics"]["speculative_decoding"]["mean_acceptance_length"] for chunk in chunks]
    assert lengths[-1] > 1
    plain = events(endpoint, "completions", stop=stop, **body)
    assert "".join(chunk["choices"][0]["text"] for chunk in plain) == "".join(choice["text"] for choice in choices)
    assert not any("spans" in chunk["choices"][0] for chunk in plain)
