"""One client connection of the API: a request has to arrive in time and in bounds, or the connection ends.

uvicorn alone waits for ever for the rest of a request, keeps headers of any size, and reads on after it has answered.
Uploads of files may be large, and take as long as they go on: `UPLOAD_STEP_BYTES` have to arrive in the time of any
other body.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http import httptools_impl

from api.errors import error_body
from api.files.upload_routes import MAX_UPLOAD_BYTES, OVERHEAD_BYTES, is_upload

HEADER_TIMEOUT_S = 30.0
BODY_TIMEOUT_S = 60.0
MAX_HEADER_BYTES = 64 << 10
MAX_REQUEST_BYTES = 8 << 20
"""On the wire: a body that is too large is read this far, so that its sender hears why."""
UPLOAD_STEP_BYTES = 1 << 20
"""Of a file, in the time that any other body has for all of it."""
MAX_CONNECTIONS = 4096
_GRACE_S = 0.5


class BoundedConnection(httptools_impl.HttpToolsProtocol):
    """`HttpToolsProtocol` with deadlines and sizes; see the module."""

    header_timeout_s, body_timeout_s = HEADER_TIMEOUT_S, BODY_TIMEOUT_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_headers, self._num_bytes = True, 0
        self._is_upload, self._next_step_bytes, self._answered_at_bytes = False, 0, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: it has to say what it wants."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            message = f"more than {MAX_CONNECTIONS} connections are open; close some"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", message)
            return
        self._wait_for(self.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        if self.transport.is_closing():
            return
        self._num_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_headers and self._num_bytes > MAX_HEADER_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "request_too_large",
                f"the request's line and headers take more than {MAX_HEADER_BYTES} bytes; shorten them",
            )
        elif self._num_bytes > self._most_bytes():
            self.transport.abort()
        elif self._is_upload and self._deadline is not None and self._num_bytes >= self._next_step_bytes:
            self._next_step_bytes = self._num_bytes + UPLOAD_STEP_BYTES
            self._wait_for(self.body_timeout_s)
        elif self._in_headers and self._num_bytes and self._deadline is None:
            self._wait_for(self.header_timeout_s)  # empty lines before a request, which the parser passes over

    def on_message_begin(self) -> None:
        """Another request begins."""
        super().on_message_begin()
        if self._deadline is None:
            self._wait_for(self.header_timeout_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; behind a body it would be a trailer, and nothing of ours reads those."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers are whole; the body has to follow."""
        self._in_headers = False
        self._wait_for(self.body_timeout_s)
        super().on_headers_complete()
        self._is_upload = is_upload(self.scope["method"], self.scope["path"])
        self._next_step_bytes, self._answered_at_bytes = self._num_bytes + UPLOAD_STEP_BYTES, 0

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._stop_waiting()
        self._in_headers, self._num_bytes = True, 0
        super().on_message_complete()

    def _most_bytes(self) -> int:
        """What a request may have on the wire; of a file whose answer has begun, that much more."""
        if not self._is_upload:
            return MAX_REQUEST_BYTES
        if self.cycle is None or not self.cycle.response_started:
            return MAX_UPLOAD_BYTES + OVERHEAD_BYTES + MAX_REQUEST_BYTES
        self._answered_at_bytes = self._answered_at_bytes or self._num_bytes
        return self._answered_at_bytes + MAX_REQUEST_BYTES

    def _wait_for(self, timeout_s: float) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(timeout_s, self._is_late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_late(self) -> None:
        # When this loop itself was held up, what is late may lie in the socket: timers come before it.
        self._deadline = self.loop.call_later(_GRACE_S, self._end_late)

    def _end_late(self) -> None:
        self._deadline = None
        if self._is_upload and not self._in_headers and self.flow.read_paused:
            self._wait_for(self.body_timeout_s)  # it is this process that is slow
            return
        is_answered = self.cycle is not None and self.cycle.response_started and not self._in_headers
        if is_answered or (self._in_headers and not self._num_bytes):
            self.transport.abort()  # it has its answer, or never asked anything
        elif not self.transport.is_closing():
            part = "headers" if self._in_headers else "body"
            timeout_s = self.header_timeout_s if self._in_headers else self.body_timeout_s
            message = f"the request's {part} did not arrive within {timeout_s:g} s; send it again"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", message)

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        self._stop_waiting()
        body = json.dumps(error_body(status, message, param=None, code=code)).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
