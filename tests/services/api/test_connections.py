"""Slow, large and many requests over real sockets: each ends in time, and others are answered meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from live_api import BODY, LiveApi, live_api

from api import connections
from api.connections import BoundedConnection

START = b"POST /v1/adaptations HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedConnection, "header_timeout_s", 0.5)
    monkeypatch.setattr(BoundedConnection, "body_timeout_s", 0.5)


def connect(live: LiveApi) -> socket.socket:
    url = httpx.URL(live.url)
    opened = socket.create_connection((url.host, url.port or 80))
    opened.settimeout(20)
    return opened


def read_all(opened: socket.socket) -> bytes:
    parts = []
    try:
        while part := opened.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def push(opened: socket.socket, part: bytes, limit: int, *, wait_s: float = 0.0) -> int:
    """Send a part again and again until the other side has had enough; the bytes sent by then, at most the limit."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < limit:
            opened.sendall(part)
            sent += len(part)
            time.sleep(wait_s)
    return sent


def is_well(live: LiveApi) -> bool:
    return httpx.get(f"{live.url}/health", timeout=20).status_code == 200


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("sent", "part"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"headers"),
        (START + b"content-length: 100\r\n\r\n{", b"body"),
        (START + b"transfer-encoding: chunked\r\n\r\n5\r\n{", b"body"),
    ],
)
def test_a_request_that_does_not_arrive_is_told_and_ended(live: LiveApi, sent: bytes, part: bytes) -> None:
    with connect(live) as opened:
        opened.sendall(sent)
        began = time.monotonic()
        answer = read_all(opened)
        assert time.monotonic() - began < 15
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert b"the request's " + part in answer
    assert is_well(live)


@pytest.mark.usefixtures("impatient")
def test_a_request_that_comes_byte_by_byte_is_ended_too(live: LiveApi) -> None:
    with connect(live) as opened:
        opened.sendall(START)
        assert push(opened, b"a", 200, wait_s=0.1) < 200
    assert is_well(live)


@pytest.mark.usefixtures("impatient")
def test_a_connection_that_says_nothing_is_closed(live: LiveApi) -> None:
    with connect(live) as opened:
        assert read_all(opened) == b""


@pytest.mark.usefixtures("impatient")
def test_an_answer_may_take_longer_than_its_request(live: LiveApi) -> None:
    with httpx.Client(base_url=live.url, timeout=20) as client:
        job_id = client.post("/v1/adaptations", json=BODY).json()["id"]
        headers = {"accept": "text/event-stream"}
        began, lines = time.monotonic(), 0
        with client.stream("GET", f"/v1/adaptations/{job_id}/events", headers=headers) as stream:
            for _ in stream.iter_lines():
                lines += 1
                if time.monotonic() - began > 6:  # one keep-alive comes in between
                    break
        assert lines > 3


def test_headers_without_end_are_refused(live: LiveApi) -> None:
    with connect(live) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        assert push(opened, b"X-More: " + b"a" * 8000 + b"\r\n", 100 << 20) < 8 << 20
    assert is_well(live)


def test_a_body_too_large_is_told_and_not_read_for_ever(live: LiveApi) -> None:
    with connect(live) as opened:
        opened.sendall(START + b"transfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        assert push(opened, chunk, 2 << 20) >= 2 << 20
        assert opened.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert push(opened, chunk, 1 << 30) < 64 << 20
    assert is_well(live)


UPLOAD = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
FILE_BEGINS = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
)


def chunk_of(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_an_upload_may_take_long_as_long_as_it_goes_on(live: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedConnection, "body_timeout_s", 2.0)
    monkeypatch.setattr(connections, "UPLOAD_STEP_BYTES", 1 << 16)
    with connect(live) as opened:
        opened.sendall(UPLOAD + chunk_of(FILE_BEGINS))
        for n in range(8):
            row = json.dumps({"prompt": f"{n} {'x' * 70_000}"}).encode() + b"\n"
            opened.sendall(chunk_of(row))
            time.sleep(0.5)
        opened.sendall(chunk_of(b"\r\n--x--\r\n") + b"0\r\n\r\n")
        answer = opened.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    with connect(live) as opened:
        opened.sendall(UPLOAD + chunk_of(FILE_BEGINS))
        assert push(opened, chunk_of(b"a"), 600, wait_s=0.1) < 600
    assert is_well(live)


def test_an_upload_without_end_is_told_and_not_read_for_ever(live: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.files.multipart.MAX_FIELD_BYTES", 1 << 12)
    with connect(live) as opened:
        field = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n'
        opened.sendall(UPLOAD + chunk_of(field) + chunk_of(b" " * (1 << 14)))
        assert opened.recv(4096).startswith(b"HTTP/1.1 400 ")
        assert push(opened, chunk_of(b" " * 65536), 1 << 30) < 64 << 20
    assert is_well(live)


def test_what_follows_a_whole_request_on_its_connection_is_counted_anew(live: LiveApi) -> None:
    body = {**BODY, "metadata": {"note": "x" * 500}}
    with httpx.Client(base_url=live.url, timeout=20) as client:
        for _ in range(30):
            assert client.post("/v1/adaptations", json=body, headers={"x-pad": "p" * 4000}).status_code in (200, 201)


def test_more_connections_than_allowed_are_turned_away(live: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    held = [connect(live) for _ in range(3)]
    try:
        time.sleep(0.3)
        with connect(live) as opened:
            answer = read_all(opened)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
    finally:
        for each in held:
            each.close()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert is_well(live)
            return
        except (AssertionError, httpx.HTTPError):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity"])
def test_a_packed_body_is_refused_unpacked(live: LiveApi, encoding: str) -> None:
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    answer = httpx.post(f"{live.url}/v1/adaptations", content=b"\x1f\x8b" * 100, headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_without_keys_only_names_of_this_machine_are_answered(live: LiveApi) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", "", "[::2]"):
        for path in ("/health", "/ui/", "/v1/adaptations"):
            answer = httpx.get(f"{live.url}{path}", headers={"host": host}, timeout=20)
            assert (answer.status_code, answer.json()["error"]["code"]) == (421, "misdirected_request"), host
    for host in ("localhost", "LOCALHOST:8700", "127.0.0.1:1", "127.9.9.9", "[::1]:8700"):
        assert httpx.get(f"{live.url}/health", headers={"host": host}, timeout=20).status_code == 200, host
    key, _ = live.store.keys.create("a", "test", ["admin"])
    try:
        assert httpx.get(f"{live.url}/health", headers={"host": "eda.example.org"}, timeout=20).status_code == 200
    finally:
        live.store.keys.revoke(key.id)
