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
from api.files.upload_routes import OVERHEAD_BYTES, is_upload
from eda_service.ids import ulid

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_ENCODED = "the body has a content-encoding; send it plain"
_TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES} bytes; put prompts in a file and upload it"


class Envelope:
    """Wraps the application; see the module.

    Args:
        app: What it wraps.
        max_file_bytes: The most that the file of an upload may have; 0: nothing is uploaded here.
    """

    def __init__(self, app: ASGIApp, *, max_file_bytes: int = 0) -> None:
        self._app, self._max_file_bytes = app, max_file_bytes

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
        most, too_large = self._limit_of(scope)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            response = error_response(413, too_large, code="request_too_large", headers={"connection": "close"})
            await response(scope, receive, send_with_id)
            return
        try:
            await self._app(scope, _limited(receive, most, too_large), send_with_id)
        except ClientDisconnect:
            logger.info("request %s ended before it was whole", request_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            if started:
                raise  # too late for a status; the server cuts the connection, which the client sees
            message = f"internal error; the log has it under {request_id}"
            await error_response(500, message, code="internal")(scope, receive, send_with_id)

    def _limit_of(self, scope: Scope) -> tuple[int, str]:
        """The most bytes of a request's body, and what is said of more."""
        if not is_upload(scope["method"], scope["path"]):
            return MAX_BODY_BYTES, _TOO_LARGE
        most = self._max_file_bytes
        return most + OVERHEAD_BYTES, (
            f"the file is larger than {most:,} bytes, the most that this service takes (EDA_MAX_FILE_BYTES); part it, "
            "or pack it with gzip"
        )


def _limited(receive: Receive, most: int, too_large: str) -> Receive:
    """Count what arrives: a chunked body states no length."""
    seen_bytes = 0

    async def limited() -> Message:
        nonlocal seen_bytes
        message = await receive()
        seen_bytes += len(message.get("body", b""))
        if seen_bytes > most:
            raise HTTPException(413, too_large)
        return message

    return limited
