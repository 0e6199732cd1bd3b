"""The client's end of a call: detects that a client disconnected, and stops waiting for one that does not read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 60.0
_CLIENT_GONE = 499  # nginx's number; nobody reads it
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
T = TypeVar("T")


async def unless_gone(http: Request, work: Coroutine[Any, Any, T]) -> T | Response:
    """Return the result of the work, or an empty answer if the client disconnects before; the work is then cancelled.

    Raises:
        Exception: Any error that the work raises.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=_CLIENT_GONE)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(http: Request) -> None:
    """Return when the client has disconnected; the body has been read before."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


class ServerSentEvents(StreamingResponse):
    """Server-sent events.

    Args:
        events: Complete events, encoded.
        close: Function called at the end, also when no event was ever requested.
    """

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_STREAM_HEADERS)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end, or until the client has not read for too long."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except* TimeoutError:
            logger.warning("a client has not read its stream for %g s and is cut off", WRITE_TIMEOUT_S)
        finally:
            self._close()
