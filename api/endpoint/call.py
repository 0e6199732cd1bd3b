"""One call to the endpoint: its prompts become requests to decode, and its answers are read as they are decoded."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from api.endpoint.choice import Choice, Echo, Piece
from api.endpoint.engines.interfaces import ServedPair
from api.endpoint.engines.pending_answers import DecodeRequest, PendingAnswers
from api.endpoint.protocol.answer_formats import AnswerFormat, ChatFormat, TextFormat
from api.endpoint.protocol.requests import BASE_ALONE, NO_DRAFT, ChatRequest, CompletionRequest, GenerationRequest
from api.endpoint.protocol.schemas import CallMetrics, SpeculativeDecoding, Usage
from eda_service.decoding.request import SamplingParams, StepOutput, own_params
from eda_service.errors import ContextLengthError, RequestError, UnsupportedParameterError
from eda_service.targets.chat.conversation import render_turns

MAX_CHUNKS_PER_S = 40.0 * len(os.sched_getaffinity(0))
"""Limit of one replica, over all its answers: writing a chunk takes about a millisecond of CPU time from here to the
client, so this many take 4 % of the cores, which decode too. On two cores sixteen answers get a chunk each 200 ms, four
each 50 ms.
"""
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_LONG_TEXT = 20_000  # characters; more are tokenised beside the event loop


@dataclass(frozen=True)
class _Drafting:
    """The draft of a request.

    Attributes:
        pack: Reference of the pack under which the request is counted.
        draft_of: The engine's name for the variant whose draft is used; None: the request's own variant.
        is_on: False: decode without a draft.
    """

    pack: str | None
    draft_of: str | None = None
    is_on: bool = True


def _drafting(pair: ServedPair, asked: str | None) -> _Drafting:
    """Find the draft that a request asks for.

    Raises:
        UnsupportedParameterError: The engine has one draft for all requests.
        RequestError: The draft asked for is not loaded beside the deployment.
    """
    if asked is None or asked == pair.pack:
        return _Drafting(pair.pack)
    if pair.drafts is None:
        raise UnsupportedParameterError(
            f"draft is {asked[:128]!r}, and {pair.name} has one draft for all requests, as every deployment on vLLM; "
            "leave it out",
            param="draft",
        )
    if asked == NO_DRAFT:
        return _Drafting(None, is_on=False)
    draft_of = pair.drafts().get(asked)
    if draft_of is None:
        raise RequestError(
            f"draft {asked[:128]!r} is not loaded beside {pair.name}; give {NO_DRAFT}, {BASE_ALONE} where it has a "
            "base draft, or name@version of a pack that is served on the same base",
            param="draft",
        )
    return _Drafting(None if asked == BASE_ALONE else asked, draft_of)


class GenerationCall:
    """Runs one call. `open_call` makes it; close it in every case."""

    def __init__(self, pair: ServedPair, request: GenerationRequest, pending: PendingAnswers) -> None:
        self.pair, self.options = pair, request.options
        self._request, self._pending = request, pending
        self._num_prompt_tokens = 0
        self._early: list[tuple[int, StepOutput]] = []
        self.choices: list[Choice] = []
        with_logprobs = request.num_logprobs is not None
        kind: type[ChatFormat | TextFormat] = ChatFormat if isinstance(request, ChatRequest) else TextFormat
        self.answer_format: AnswerFormat = kind(pair.token_text, with_logprobs=with_logprobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the places of the answers that still run."""
        self._pending.close()

    async def start(self) -> None:
        """Read the prompts, submit the answers and wait for the first output; errors of the call are raised here.

        Raises:
            EdaError: A prompt is refused, the time is up, or the engine failed.
        """
        prompts = await _prompts(self.pair, self._request)
        self._num_prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        self._pending.start([decode_request for prompt in prompts for decode_request in self._decode_requests(prompt)])
        self._early = await self._pending.take()

    async def pieces(self) -> AsyncGenerator[list[tuple[int, Piece]], None]:
        """Yield the pieces that came since the last time, at most one piece an answer, until all answers have ended.

        The first piece and the end of an answer are sent at once; in between, all answers of the replica share
        `MAX_CHUNKS_PER_S`.

        Raises:
            EdaError: The time is up, or the engine failed.
        """
        outputs, self._early = self._early, []
        num_open = len(self.choices)
        while num_open:
            read_at_s = time.perf_counter()
            found = self._read(outputs)
            num_open -= sum(piece.finish_reason is not None for piece in found.values())
            if found:
                yield list(found.items())
            if num_open:
                due_s = read_at_s + self.pair.runner.num_running / MAX_CHUNKS_PER_S
                outputs = await self._pending.take(due_s - time.perf_counter())

    def _read(self, outputs: Sequence[tuple[int, StepOutput]]) -> dict[int, Piece]:
        found: dict[int, Piece] = {}
        for index, output in outputs:
            choice = self.choices[index]
            piece = None if choice.ended else choice.take(output)
            if piece is not None:
                found[index] = found[index].then(piece) if index in found else piece
            if choice.ended:
                self._pending.cancel(index, "stop")  # nothing is left of it unless a stop string ended it
        return found

    @property
    def usage(self) -> Usage:
        """Count the tokens so far."""
        return Usage.of(self._num_prompt_tokens, sum(choice.num_tokens for choice in self.choices))

    @property
    def metrics(self) -> CallMetrics:
        """Return the speculation counts so far."""
        stats = [choice.stats for choice in self.choices]
        return CallMetrics(speculative_decoding=SpeculativeDecoding.of(stats, self.pair.num_spec_tokens))

    def _decode_requests(self, prompt: Echo) -> list[DecodeRequest]:
        """Make one request per answer to this prompt; the answers of a seeded request take consecutive seeds."""
        request, ids = self._request, prompt.token_ids
        drafting = _drafting(self.pair, request.draft)
        params = [
            replace(self._params(len(ids), place), speculate=drafting.is_on) for place in range(request.num_answers)
        ]
        echo = prompt if isinstance(request, CompletionRequest) and request.echo else None
        for _ in params:
            self.choices.append(
                Choice(
                    self.pair.tokenizer,
                    request.stops,
                    num_prompt_tokens=len(ids),
                    echo=echo,
                    with_spans=bool(request.stream) and request.options.draft_tokens,
                )
            )
        return [
            DecodeRequest(self.pair.uid, ids, each, self.pair.variant, drafting.pack, drafting.draft_of)
            for each in params
        ]

    def _params(self, num_prompt_tokens: int, place: int) -> SamplingParams:
        request, room = self._request, self.pair.max_model_len - num_prompt_tokens
        is_chat = isinstance(request, ChatRequest)
        if room < 1:
            raise ContextLengthError(
                f"the prompt has {num_prompt_tokens} tokens, {self.pair.name} takes {self.pair.max_model_len} with the "
                "answer; shorten it",
                param="messages" if is_chat else "prompt",
            )
        return replace(
            own_params(self.pair.defaults),
            **_said(request),
            max_new_tokens=min(room, self.pair.defaults.max_new_tokens or room) if request.cap is None else request.cap,
            seed=None if request.seed is None else request.seed + place,
            stop_token_ids=frozenset(request.stop_token_ids or ()),
            ignore_eos=request.ignore_eos,
            min_new_tokens=request.min_tokens,
            num_logprobs=request.num_logprobs,
            score_prompt=isinstance(request, CompletionRequest)
            and bool(request.echo)
            and request.num_logprobs is not None,
        )


def _said(request: GenerationRequest) -> dict[str, Any]:
    """Collect the sampling fields that a request sets, by the engine's names; the model's defaults fill the others."""
    found: dict[str, Any] = {name: float(value) for name in _NUMBERS if (value := getattr(request, name)) is not None}
    if request.top_k is not None:
        found["top_k"] = request.top_k
    if request.logit_bias:
        found["logit_bias"] = tuple((int(token), float(bias)) for token, bias in request.logit_bias.items())
    if request.suppress_tokens is not None:
        found["suppress_token_ids"] = frozenset(request.suppress_tokens)
    return found


def open_call(pair: ServedPair, request: GenerationRequest, *, timeout_s: float) -> GenerationCall:
    """Take places for a call's answers; the pair is not unloaded until the call is closed.

    Raises:
        RequestError: The call asks for more answers than the queue has places.
        OverloadedError: The queue has no free place for the call.
    """
    count = request.num_prompts * request.num_answers
    if count > pair.runner.max_open:
        raise RequestError(
            f"{request.num_prompts} prompts with {request.num_answers} answers each are {count}, at most "
            f"{pair.runner.max_open} fit in one request; send several",
            param="n",
        )
    return GenerationCall(pair, request, pair.runner.book(count, timeout_s=timeout_s))


async def _prompts(pair: ServedPair, request: GenerationRequest) -> list[Echo]:
    """Return the text and token ids of every prompt of a request."""
    if isinstance(request, ChatRequest):
        turns = [message.turn() for message in request.messages]
        return [Echo("", await asyncio.to_thread(render_turns, pair.tokenizer, turns, request.template_options()))]
    assert isinstance(request, CompletionRequest)
    found = []
    for prompt in request.prompts:
        if isinstance(prompt, str):
            found.append(Echo(prompt, await _encode(pair.tokenizer, prompt)))
        else:
            found.append(Echo(_decode(pair, prompt) if request.echo else "", prompt))
    return found


async def _encode(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text; a long text is encoded in a thread, because it would hold up the event loop."""
    found = tokenizer(text) if len(text) < _LONG_TEXT else await asyncio.to_thread(tokenizer, text)
    return list(found["input_ids"])


def _decode(pair: ServedPair, token_ids: list[int]) -> str:
    """Return the text of an echoed prompt of ids; the engine refuses ids outside the vocabulary."""
    return b"".join(pair.token_text.of(token_id)[1] for token_id in token_ids).decode("utf-8", "replace")
