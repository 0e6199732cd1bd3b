"""Outermost layer: request ids, the body limit, and a 500 in the usual shape for whatever nobody caught.

Plain ASGI, because `BaseHTTPMiddleware` buffers and would hold back streamed tokens.
"""

from __future__ import annotations

import logging
import re

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from eda_service.ids import ulid

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_ENCODED = "the body has a content-encoding; send it plain"
_TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES} bytes; put prompts in a file and name it as the dataset"


class Envelope:
    """Wraps the application; see the module."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{ulid()}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            response = error_response(415, _ENCODED, code="unsupported_media_type", headers={"connection": "close"})
            await response(scope, receive, send_with_id)
            return
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            response = error_response(413, _TOO_LARGE, code="request_too_large", headers={"connection": "close"})
            await response(scope, receive, send_with_id)
            return
        try:
            await self._app(scope, _limited(receive), send_with_id)
        except ClientDisconnect:
            logger.info("request %s ended before it was whole", request_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            if started:
                raise  # too late for a status; the server cuts the connection, which the client sees
            message = f"internal error; the log has it under {request_id}"
            await error_response(500, message, code="internal")(scope, receive, send_with_id)


def _limited(receive: Receive) -> Receive:
    """Count what arrives: a chunked body states no length."""
    seen_bytes = 0

    async def limited() -> Message:
        nonlocal seen_bytes
        message = await receive()
        seen_bytes += len(message.get("body", b""))
        if seen_bytes > MAX_BODY_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return limited
