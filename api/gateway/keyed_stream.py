"""An answer that is sent piece by piece and ends with the key that it was asked for by."""

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
"""How a stream of a job's events ends with its key."""
OPENAI_STREAM_END = f"data: {_BODY}\n\n".encode() + b"data: [DONE]\n\n"
"""How a streamed answer of the endpoint does."""


class KeyedStream(StreamingResponse):
    """A stream.

    Args:
        pieces: What is sent.
        keys: Says when the key is dead.
        key_id: Who asked; None: there were no keys.
        last: Events to end with when the key is dead; None: no events are sent, so the connection is cut.
    """

    def __init__(
        self, pieces: AsyncIterator[bytes], *, keys: KeyWatch, key_id: str | None, last: bytes | None, **kwargs: Any
    ) -> None:
        super().__init__(pieces, **kwargs)
        self._keys, self._key_id, self._last = keys, key_id, last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until it ends, its reader goes, or its key is dead."""
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
        """Say why, to a client that reads; one that does not is cut off, as is one that was promised no events."""
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
    """What of an answer the client's connection has taken.

    Attributes:
        has_begun: Its status is out.
        is_whole: So is its end.
        tail: Its newest bytes, as many as separate two events.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = self.is_whole = False
        self.tail = b""

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        await self._send(message)
        self.has_begun = True
        if message["type"] == "http.response.body":
            self.tail = (self.tail + bytes(message.get("body", b"")))[-len(_BETWEEN_EVENTS) :]
            self.is_whole = not message.get("more_body", False)
