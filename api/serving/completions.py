"""A request for text becomes engine requests, and the engine's outputs become OpenAI's answers and event streams."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from api.serving.runner import EngineRunner
from api.serving.schemas import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    CompletionRequest,
    Delta,
    DeltaChoice,
    FinishReason,
    GenerationRequest,
    Metrics,
    SpeculativeDecoding,
    TextChoice,
    TextCompletion,
    Usage,
    new_id,
)
from api.serving.text import TextStream
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.errors import EdaError, RequestError
from eda_service.target.chat import render_prompt


@dataclass(frozen=True)
class ServedPair:
    """A target with its draft, ready to answer.

    Attributes:
        tokenizer: The target's.
        num_spec_tokens: K, proposed per round.
        max_model_len: Prompt plus answer of any request.
    """

    name: str
    base_draft: str | None
    pack: str | None
    loaded_at: int
    runner: EngineRunner
    tokenizer: Any
    stop_token_ids: frozenset[int]
    num_spec_tokens: int
    max_model_len: int


@dataclass
class Piece:
    """Some more text of an answer; the last piece has the reason it ended."""

    text: str
    finish_reason: FinishReason | None = None


@dataclass
class Answer:
    """One request on its way through a pair."""

    pair: ServedPair
    prompt_ids: list[int]
    params: SamplingParams
    stops: Sequence[str]
    stats: RequestStats = field(init=False)

    def __post_init__(self) -> None:
        self.stats = RequestStats(num_prompt_tokens=len(self.prompt_ids))

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The answer's text as it is decoded; ends with exactly one piece that has a reason.

        Raises:
            EdaError: The engine refuses the request or failed.
        """
        text = TextStream(self.pair.tokenizer, self.stops)
        async with aclosing(self.pair.runner.generate(self.prompt_ids, self.params, variant=self.pair.name)) as outputs:
            async for output in outputs:
                self.stats = output.stats
                new_ids = output.new_token_ids
                if output.finish_reason == "stop" and new_ids and new_ids[-1] in self.pair.stop_token_ids:
                    new_ids = new_ids[:-1]
                piece = text.push(new_ids)
                if text.stopped:
                    yield Piece(piece, "stop")
                    return
                if output.finish_reason is not None:
                    rest = text.finish()
                    yield Piece(
                        piece + rest, "length" if output.finish_reason == "length" and not text.stopped else "stop"
                    )
                    return
                if piece:
                    yield Piece(piece)

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        prompt, new = len(self.prompt_ids), self.stats.num_new_tokens
        return Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)

    @property
    def metrics(self) -> Metrics:
        """What speculation did so far."""
        return Metrics(speculative_decoding=SpeculativeDecoding.of(self.stats, self.pair.num_spec_tokens))


def start_chat(pair: ServedPair, request: ChatRequest) -> Answer:
    """The engine request of a conversation.

    Raises:
        DatasetInvalidError: The chat template refuses the messages.
        RequestError: Nothing of the context is left for an answer.
    """
    messages = [{"role": message.role, "content": message.text} for message in request.messages]
    return _answer(pair, render_prompt(pair.tokenizer, messages), request)


def start_completion(pair: ServedPair, request: CompletionRequest) -> Answer:
    """The engine request of a raw prompt.

    Raises:
        RequestError: Nothing of the context is left for an answer.
    """
    if isinstance(request.prompt, str):
        return _answer(pair, list(pair.tokenizer(request.prompt)["input_ids"]), request)
    return _answer(pair, request.prompt, request)


def _answer(pair: ServedPair, prompt_ids: list[int], request: GenerationRequest) -> Answer:
    room = pair.max_model_len - len(prompt_ids)
    if room < 1:
        raise RequestError(
            f"the prompt has {len(prompt_ids)} tokens, {pair.name} takes {pair.max_model_len} with the answer; "
            "shorten it",
            param="messages" if isinstance(request, ChatRequest) else "prompt",
        )
    params = SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        max_new_tokens=room if request.cap is None else request.cap,
        seed=request.seed,
    )
    return Answer(pair, prompt_ids, params, request.stops)


async def whole_chat(answer: Answer) -> ChatCompletion:
    """The answer in one body."""
    text, reason = await _collect(answer)
    choice = ChatChoice(message=AssistantMessage(content=text), finish_reason=reason)
    return ChatCompletion(
        id=new_id("chatcmpl"), model=answer.pair.name, choices=[choice], usage=answer.usage, metrics=answer.metrics
    )


async def whole_completion(answer: Answer) -> TextCompletion:
    """The answer in one body."""
    text, reason = await _collect(answer)
    return TextCompletion(
        id=new_id("cmpl"),
        model=answer.pair.name,
        choices=[TextChoice(text=text, finish_reason=reason)],
        usage=answer.usage,
        metrics=answer.metrics,
    )


async def _collect(answer: Answer) -> tuple[str, FinishReason]:
    parts: list[str] = []
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            parts.append(piece.text)
            if piece.finish_reason is not None:
                return "".join(parts), piece.finish_reason
    raise EdaError("the answer ended without a reason")


async def chat_events(answer: Answer, *, include_usage: bool) -> AsyncGenerator[str, None]:
    """Server-sent events of a chat answer. Take the first before answering 200: the request's errors come there."""
    made: dict[str, Any] = {"id": new_id("chatcmpl"), "model": answer.pair.name}
    made["created"] = ChatChunk(**made, choices=[]).created
    first: Delta | None = Delta(role="assistant", content="")
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            if first is not None:
                yield _event(ChatChunk(**made, choices=[DeltaChoice(delta=first)]))
                first = None
            if piece.text:
                yield _event(ChatChunk(**made, choices=[DeltaChoice(delta=Delta(content=piece.text))]))
            if piece.finish_reason is not None:
                last = DeltaChoice(delta=Delta(), finish_reason=piece.finish_reason)
                yield _event(ChatChunk(**made, choices=[last], metrics=answer.metrics))
    if include_usage:
        yield _event(ChatChunk(**made, choices=[], usage=answer.usage))


async def completion_events(answer: Answer, *, include_usage: bool) -> AsyncGenerator[str, None]:
    """Server-sent events of a text completion."""
    made: dict[str, Any] = {"id": new_id("cmpl"), "model": answer.pair.name}
    made["created"] = TextCompletion(**made, choices=[]).created
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            choice = TextChoice(text=piece.text, finish_reason=piece.finish_reason)
            metrics = answer.metrics if piece.finish_reason is not None else None
            yield _event(TextCompletion(**made, choices=[choice], metrics=metrics))
    if include_usage:
        yield _event(TextCompletion(**made, choices=[], usage=answer.usage))


async def framed(first: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """The whole stream: the event already taken, the others, an error if one comes, and exactly one `[DONE]`."""
    yield first
    try:
        async with aclosing(rest):
            async for event in rest:
                yield event
    except EdaError as error:
        body = {"message": error.message, "type": "server_error", "param": error.param, "code": error.code}
        yield f"data: {json.dumps({'error': body})}\n\n"
    yield "data: [DONE]\n\n"


def _event(body: BaseModel) -> str:
    return f"data: {body.model_dump_json(exclude_none=True)}\n\n"
