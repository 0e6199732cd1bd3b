"""How a call is answered: one body, or a stream of server-sent events that ends with exactly one `[DONE]`."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from starlette.responses import Response

from api.endpoint.call import GenerationCall, open_call
from api.endpoint.choice import Scored
from api.endpoint.connection import ServerSentEvents, unless_gone
from api.endpoint.engines.interfaces import ServedPair
from api.endpoint.protocol.answer_formats import ChoiceBody
from api.endpoint.protocol.requests import GenerationRequest
from api.endpoint.protocol.schemas import FinishReason, new_id
from api.errors import error_body, status_of
from eda_service.errors import EdaError

_DONE = b"data: [DONE]\n\n"


async def respond(pair: ServedPair, request: GenerationRequest, http: Request, *, timeout_s: float) -> Response:
    """Answer a call. A client that goes away frees its slots at the next round.

    Args:
        pair: The served pair that answers.
        request: The validated body.
        http: The HTTP request; when its client disconnects, the call is closed.
        timeout_s: Longest time in seconds that the answers may take.

    Raises:
        EdaError: The call is refused or fails before the first event; later errors are sent as events.
    """
    call = open_call(pair, request, timeout_s=timeout_s)
    try:
        if not request.stream:
            with call:
                return await unless_gone(http, _whole(call))
        early = await unless_gone(http, call.start())
        if isinstance(early, Response):
            call.close()
            return early
        return ServerSentEvents(_events(call), call.close)
    except BaseException:
        call.close()
        raise


async def _whole(call: GenerationCall) -> Response:
    """Collect every answer and return them in one body."""
    await call.start()
    texts: defaultdict[int, list[str]] = defaultdict(list)
    scored: defaultdict[int, list[Scored]] = defaultdict(list)
    reasons: dict[int, FinishReason] = {}
    async with aclosing(call.pieces()) as found:
        async for pieces in found:
            for index, piece in pieces:
                texts[index].append(piece.text)
                scored[index] += piece.scored
                if piece.finish_reason is not None:
                    reasons[index] = piece.finish_reason
    answer = call.answer_format.whole(
        id=new_id(call.answer_format.id_prefix),
        model=call.pair.name,
        system_fingerprint=call.pair.fingerprint,
        choices=[
            dict(call.answer_format.choice(index, "".join(texts[index]), scored[index], reasons[index]))
            for index in range(len(call.choices))
        ],
        usage=call.usage,
        metrics=call.metrics,
    )
    return Response(answer.model_dump_json(), media_type="application/json")


async def _events(call: GenerationCall) -> AsyncGenerator[bytes, None]:
    """Stream the events of a started call, with an error as the last event if one occurs."""
    chunks = _Chunks(call)
    opened: set[int] = set()
    try:
        async with aclosing(call.pieces()) as found:
            async for pieces in found:
                events = []
                for index, piece in pieces:
                    opening = None if index in opened else call.answer_format.opening(index)
                    opened.add(index)
                    if opening is not None:
                        events.append(chunks.chunk(opening))
                    events.append(chunks.chunk(call.answer_format.chunk(index, piece)))
                yield b"".join(events)
        if call.options.include_usage:
            yield chunks.last()
    except EdaError as error:
        body = error_body(status_of(error), error.message, param=error.param, code=error.code)
        yield f"data: {json.dumps(body)}\n\n".encode()
    yield _DONE


class _Chunks:
    """Writes a call's chunks; the fields that all chunks share are serialized once."""

    def __init__(self, call: GenerationCall) -> None:
        self._call = call
        shared = {
            "id": new_id(call.answer_format.id_prefix),
            "object": call.answer_format.chunk_object,
            "created": int(time.time()),
            "model": call.pair.name,
            "system_fingerprint": call.pair.fingerprint,
        }
        self._head = f'data: {json.dumps(shared)[:-1]}, "choices": ['
        self._no_usage = '], "usage": null' if call.options.include_usage else "]"

    def chunk(self, choice: ChoiceBody) -> bytes:
        """Write a chunk with one choice; the last one has the metrics, or all do where `draft_tokens` are asked for."""
        tail = self._no_usage
        if self._call.options.continuous_usage_stats:
            tail = f'], "usage": {self._call.usage.model_dump_json()}'
        is_last = choice["finish_reason"] is not None and all(each.ended for each in self._call.choices)
        if is_last or self._call.options.draft_tokens:
            tail += self._metrics()
        return f"{self._head}{json.dumps(choice)}{tail}}}\n\n".encode()

    def last(self) -> bytes:
        """Write the usage chunk."""
        usage = self._call.usage.model_dump_json()
        return f'{self._head}], "usage": {usage}{self._metrics()}}}\n\n'.encode()

    def _metrics(self) -> str:
        return f', "metrics": {self._call.metrics.model_dump_json()}'
