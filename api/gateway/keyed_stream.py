"""An answer that is sent piece by piece, and ends when the key of its request is no longer valid."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from api.auth import InvalidKeyError
from api.errors import error_body, response_of
from api.gateway.key_watch import DEAD_KEY, KeyWatch, cancelled

logger = logging.getLogger(__name__)

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
EVENT_STREAM = "text/event-stream"
_LAST_TIMEOUT_S = 2.0
_BETWEEN_EVENTS = b"\n\n"
_BODY = json.dumps(error_body(401, DEAD_KEY, param=None, code=InvalidKeyError.code))

JOB_STREAM_END = format_sse_event(event="error", data_str=_BODY)
"""Last event of a stream of a job's events whose key is no longer valid."""
OPENAI_STREAM_END = f"data: {_BODY}\n\n".encode() + b"data: [DONE]\n\n"
"""Last events of a streamed answer of the endpoint whose key is no longer valid."""


class KeyedStream(StreamingResponse):
    """A streamed answer that is tied to an API key.

    Args:
        pieces: Pieces to send.
        keys: Watch that reports when the key is no longer valid.
        key_id: Id of the key of the request; None: the service had no keys.
        last: Events to end with when the key is no longer valid; None: the connection is cut, because no events are
            sent.
    """

    def __init__(
        self, pieces: AsyncIterator[bytes], *, keys: KeyWatch, key_id: str | None, last: bytes | None, **kwargs: Any
    ) -> None:
        super().__init__(pieces, **kwargs)
        self._keys, self._key_id, self._last = keys, key_id, last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces until they end, the client disconnects, or the key is no longer valid."""
        sent = _Sent(send)
        with self._keys.open(self._key_id) as is_dead:
            sending = asyncio.ensure_future(super().__call__(scope, receive, sent.send))
            dying = asyncio.ensure_future(is_dead.wait())
            try:
                await asyncio.wait((sending, dying), return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
                    return
            finally:
                await cancelled(sending, dying)
        await self._end(sent, scope, receive, send)

    async def _end(self, sent: _Sent, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reason to a client that reads; cut off a client that does not, or to which no events are sent."""
        if sent.is_whole:
            return
        logger.info("a stream is ended: the key %s is dead", self._key_id)
        if not sent.has_begun:
            await response_of(InvalidKeyError(DEAD_KEY))(scope, receive, send)
        elif self._last is not None:
            gap = b"" if sent.tail in {b"", _BETWEEN_EVENTS} else _BETWEEN_EVENTS
            message = {"type": "http.response.body", "body": gap + self._last, "more_body": False}
            try:
                async with asyncio.timeout(_LAST_TIMEOUT_S):
                    await send(message)
            except TimeoutError:
                logger.warning("its client reads nothing and is cut off")


class _Sent:
    """Records which part of an answer the client's connection has taken.

    Attributes:
        has_begun: Whether the status was sent.
        is_whole: Whether the end was sent.
        tail: The newest bytes, as many as separate two events.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = self.is_whole = False
        self.tail = b""

    async def send(self, message: Message) -> None:
        """Pass a message on and record it."""
        await self._send(message)
        self.has_begun = True
        if message["type"] == "http.response.body":
            self.tail = (self.tail + bytes(message.get("body", b"")))[-len(_BETWEEN_EVENTS) :]
            self.is_whole = not message.get("more_body", False)
