"""A small HTTP server that answers what a test tells it to: errors, dropped connections, half a stream.

It speaks HTTP/1.1 over a real socket on loopback and remembers each request.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """What a client sent; header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What goes back.

    Args:
        json: Body.
        status: HTTP status.
        headers: Further headers.
        body: Bytes instead of JSON.
        chunks: A chunked body, piece by piece; a number is a pause in seconds.
        cut: Close the connection before the end of the body.
        drop: Close the connection without a word.
    """

    json: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    chunks: tuple[bytes | float, ...] = ()
    cut: bool = False
    drop: bool = False


Script = Answer | Callable[[Request], Answer]


def refusal(status: int, code: str, **headers: str) -> Answer:
    """An error in the service's one shape; `retry_after="1"` becomes the header `retry-after`."""
    body = {"error": {"message": f"refused: {code}", "type": "server_error", "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(body, status=status, headers={"x-request-id": "req_scripted", **named})


def sse(*events: dict[str, Any], cut_after: int | None = None, pause_s: float | None = None) -> Answer:
    """A stream of job events.

    Args:
        events: Each one's JSON.
        cut_after: Send only this many bytes of it, then close the connection.
        pause_s: Stay open this long after the last event.
    """
    sent = [
        f"id: {event['id']}\nevent: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
        for event in events
    ]
    chunks: list[bytes | float] = [b": keep-alive\n\n", *sent]
    if cut_after is not None:
        chunks = [b"".join(sent)[:cut_after]]
    if pause_s is not None:
        chunks.append(pause_s)
    return Answer(headers={"content-type": "text/event-stream"}, chunks=tuple(chunks), cut=cut_after is not None)


class ScriptedService:
    """The server; `on` tells it what to answer, `requests` holds what it was asked."""

    def __init__(self) -> None:
        self._scripts: dict[tuple[str, str], list[Script]] = {}
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.service = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def on(self, method: str, path: str, *scripts: Script) -> None:
        """Answer these in turn; the last one again and again."""
        self._scripts[method, path] = list(scripts)

    def seen(self, method: str, path: str) -> list[Request]:
        """The requests of one route so far."""
        with self._lock:
            return [each for each in self.requests if (each.method, each.path) == (method, path)]

    def wait_seen(self, method: str, path: str, num_requests: int, timeout_s: float = 20.0) -> None:
        """Block until a route was asked so often."""
        deadline = time.monotonic() + timeout_s
        while len(self.seen(method, path)) < num_requests:
            assert time.monotonic() < deadline, f"{method} {path} was asked {len(self.seen(method, path))} times"
            time.sleep(0.02)

    def answer(self, request: Request) -> Answer:
        """The next answer of a request's script."""
        with self._lock:
            self.requests.append(request)
            scripts = self._scripts.get((request.method, request.path))
            if scripts is None:
                return refusal(404, "not_found")
            script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
            return script(request) if callable(script) else script

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def scripted_service() -> Iterator[ScriptedService]:
    """A server for one test."""
    service = ScriptedService()
    try:
        yield service
    finally:
        service.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    service: ScriptedService

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle of a stream is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: without it each answer waits for a delayed acknowledgement, 40 ms
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        request = Request(
            self.command,
            url.path,
            {key: values[0] for key, values in parse_qs(url.query).items()},
            {key.lower(): value for key, value in self.headers.items()},
            _body_of(content, self.headers.get("content-type", "")),
        )
        answer = cast(_Server, self.server).service.answer(request)
        if answer.drop:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.chunks:
            self._send_chunks(answer)
        else:
            self._send_body(answer)

    def _send_body(self, answer: Answer) -> None:
        body = json.dumps(answer.json).encode() if answer.body is None else answer.body
        if "content-type" not in answer.headers:
            self.send_header("content-type", "application/json" if answer.body is None else "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if answer.cut else body)
        self.close_connection = answer.cut

    def _send_chunks(self, answer: Answer) -> None:
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for chunk in answer.chunks:
            if isinstance(chunk, bytes) and chunk:  # an empty chunk would be the body's end
                self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                self.wfile.flush()
            elif chunk:
                time.sleep(chunk)
        if answer.cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")


def _body_of(content: bytes, kind: str) -> Any:
    """What JSON says, and the bytes of a form; None without any."""
    if kind.startswith("multipart/"):
        return content
    return json.loads(content) if content else None
