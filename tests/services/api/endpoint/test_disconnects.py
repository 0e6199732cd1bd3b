"""Clients that go away in every phase, that do not read, that are too many, and answers that take too long.

Rounds are held back by a brake, so "within one round" is counted, not timed.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live_endpoint import Brake, LiveEndpoint, live_endpoint, make_pair

from api.endpoint import connection
from eda_service.decoding.engine import Engine
from eda_service.targets.loader import Target

LONG: dict[str, Any] = {"model": "tiny", "prompt": [5, 6], "max_tokens": 100, "ignore_eos": True, "temperature": 0}
QUICK: dict[str, Any] = {**LONG, "max_tokens": 2}


class Held:
    """An endpoint with two slots whose rounds happen when a test says so."""

    def __init__(self, endpoint: LiveEndpoint, engine: Engine, brake: Brake) -> None:
        self.endpoint, self.engine, self.brake = endpoint, engine, brake

    def open(
        self, body: dict[str, Any], *, path: str = "completions", receive_bytes: int | None = None
    ) -> socket.socket:
        """Send a request over a socket of its own."""
        content = json.dumps(body).encode()
        connected = socket.socket()
        if receive_bytes is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connected.connect(("127.0.0.1", int(self.endpoint.url.rsplit(":", 1)[1])))
        headers = {"host": "x", "content-type": "application/json", "content-length": len(content)}
        lines = [f"POST /v1/{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        connected.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        return connected

    def wait(self, what: Any) -> None:
        deadline = time.monotonic() + 10
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def settle(self, num_open: int) -> None:
        """Until the runner has so many answers, and its engine has taken them in: an earlier round must not be the
        one that the test counts.
        """
        self.wait(lambda: self.num_open == num_open)
        while self.engine.num_running + self.engine.num_waiting != num_open:
            self.brake.one_round()

    @property
    def num_open(self) -> int:
        return self.endpoint.runner().num_open


@pytest.fixture
def held(tiny_target: Target) -> Iterator[Held]:
    engine = Engine(tiny_target, max_batch=2, max_tokens=450)
    brake = Brake(engine)
    with live_endpoint([make_pair("tiny", tiny_target, engine, max_waiting=1)], send_buffer_bytes=16384) as running:
        yield Held(running, engine, brake)
        brake.allow(100_000)
        running.wait_idle()


def stays_whole(held: Held, connected: socket.socket) -> None:
    """The other request's answer is complete."""
    held.brake.allow(1000)
    connected.settimeout(20)
    received = b""
    while b'"finish_reason":"length"' not in received.replace(b" ", b""):
        part = connected.recv(65536)
        assert part, received
        received += part
    connected.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_waits_for_a_slot(held: Held, stream: bool) -> None:
    others = [held.open(LONG) for _ in range(2)]
    held.settle(2)
    leaving = held.open({**LONG, "stream": stream})
    held.settle(3)
    assert (held.engine.num_running, held.engine.num_waiting) == (2, 1)
    leaving.close()
    held.wait(lambda: held.num_open == 2)
    held.brake.one_round()  # this one had begun
    held.brake.one_round()
    assert (held.engine.num_running, held.engine.num_waiting) == (2, 0)
    for connected in others:
        stays_whole(held, connected)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_a_client_in_prefill_or_decoding(held: Held, stream: bool, rounds: int) -> None:
    """Gone before its first round, after it, and in the middle: one more round, and its slot is free."""
    other = held.open(LONG)
    held.settle(1)
    leaving = held.open({**LONG, "stream": stream})
    held.wait(lambda: held.num_open == 2)
    for _ in range(rounds):
        held.brake.one_round()
    leaving.close()
    held.wait(lambda: held.num_open == 1)
    held.brake.one_round()  # this one had begun
    held.brake.one_round()
    assert (held.engine.num_running, held.engine.num_waiting) == (1, 0)
    stays_whole(held, other)
    held.endpoint.wait_idle()
    assert held.endpoint.runner().counts["", None].finished == {"abort": 1, "length": 1}


def test_a_client_that_does_not_read_is_cut_off_and_harms_nobody(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer of several megabytes fits no buffer. The engine is done with it long before it is read."""
    monkeypatch.setattr(connection, "WRITE_TIMEOUT_S", 1.0)
    held.brake.allow(100_000)
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "the"}], "ignore_eos": True, "stream": True}
    big = {**asked, "n": 2, "max_tokens": 420, "logprobs": True, "top_logprobs": 20}
    stalled = held.open(big, path="chat/completions", receive_bytes=4096)
    for _ in range(20):
        answer = httpx.post(f"{held.endpoint.url}/v1/completions", json=QUICK, timeout=20)
        assert answer.status_code == 200
    held.endpoint.wait_idle()
    time.sleep(1.5)
    stalled.settimeout(20)
    received = b""
    while part := stalled.recv(1 << 20):
        received += part
    stalled.close()
    assert received.startswith(b"HTTP/1.1 200")
    assert b"[DONE]" not in received


def test_one_too_many_gets_429_and_may_try_again(held: Held) -> None:
    waiting = [held.open(LONG) for _ in range(3)]
    held.wait(lambda: held.num_open == 3)
    refused = httpx.post(f"{held.endpoint.url}/v1/completions", json=QUICK, timeout=20)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "overloaded"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    never = httpx.post(f"{held.endpoint.url}/v1/completions", json={**QUICK, "n": 4}, timeout=20)
    assert (never.status_code, never.json()["error"]["param"]) == (400, "n")
    for connected in waiting:
        connected.close()
    held.brake.allow(1000)
    held.endpoint.wait_idle()
    assert httpx.post(f"{held.endpoint.url}/v1/completions", json=QUICK, timeout=20).status_code == 200


def test_an_answer_that_takes_too_long(held: Held) -> None:
    held.endpoint.served.request_timeout_s = 0.4
    whole = httpx.post(f"{held.endpoint.url}/v1/completions", json=LONG, timeout=20)
    assert (whole.status_code, whole.headers["x-should-retry"]) == (504, "false")
    assert whole.json()["error"]["code"] == "deadline_exceeded"
    held.brake.allow(5)
    url = f"{held.endpoint.url}/v1/completions"
    with httpx.stream("POST", url, json={**LONG, "stream": True}, timeout=20) as streamed:
        assert streamed.status_code == 200
        events = streamed.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    error = json.loads(events[-3].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("deadline_exceeded", "server_error")
    assert len(events) > 3
    held.wait(lambda: held.num_open == 0)


def test_an_engine_that_breaks_in_mid_stream(tiny_target: Target) -> None:
    engine = Engine(tiny_target, max_batch=2, max_tokens=200)
    brake = Brake(engine)
    with live_endpoint([make_pair("tiny", tiny_target, engine)]) as running:
        url = f"{running.url}/v1/completions"
        brake.allow(3)
        with httpx.stream("POST", url, json={**LONG, "stream": True}, timeout=20) as streamed:
            lines = streamed.iter_lines()
            assert next(lines).startswith("data: {")
            brake.break_next_round()
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        error = json.loads(rest[-2].removeprefix("data: "))["error"]
        assert (error["code"], error["type"]) == ("engine_failed", "server_error")
        late = httpx.post(url, json=QUICK, timeout=20)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "engine_failed")
        assert late.headers["retry-after"]
