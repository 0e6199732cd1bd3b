"""A server that is told to stop: no new connection, whole answers, and event streams that let go at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from scripted_service import Answer, ScriptedService, scripted_service

from api.app import create_app
from api.server import Server, make_server
from api.settings import Settings
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.jobstore import Deployment, JobStore
from eda_service.raycluster.processes import free_port
from eda_service.raycluster.serve_plan import group_key

CHAT = "/v1/chat/completions"
TARGET = {"model": "org/base"}
PIECES = (*(f"data: {number}\n\n".encode() for number in range(5)), b"data: [DONE]\n\n")
PAUSE_S = 0.3
Start = Callable[[int], "Running"]


@pytest.fixture
def proxy() -> Iterator[ScriptedService]:
    """Serve's proxy: a stream of six pieces that takes its time."""
    with scripted_service() as opened:
        chunks = [part for piece in PIECES for part in (piece, PAUSE_S)]
        answer = Answer(headers={"content-type": "text/event-stream"}, chunks=tuple(chunks))
        opened.on("POST", f"/groups/{group_key(TARGET)}{CHAT}", answer)
        yield opened


class Running:
    """A server in a thread, with one deployment and one queued job."""

    def __init__(self, settings: Settings) -> None:
        app = create_app(settings)
        store: JobStore = app.state.services.store
        store.deployments.put(Deployment(name="a", target=TARGET, base_draft=None, pack=None), made_by="x", reason="x")
        self.job_id = store.jobs.create(AdaptConfig(target=TargetSpec(model="m")))[0].id
        self.url = f"http://127.0.0.1:{settings.port}"
        self.server: Server = make_server(app, settings)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        """Tell it to stop, as the handler of SIGTERM does."""
        self.server.should_exit = True

    def join(self) -> None:
        """Wait until it has."""
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def start(tmp_path: Path, proxy: ScriptedService) -> Iterator[Start]:
    started: list[Running] = []

    def begin(drain_s: int) -> Running:
        settings = Settings(
            home=tmp_path / "home",
            port=free_port(),
            serve_port=httpx.URL(proxy.url).port or 0,
            ray_dashboard_url=f"http://127.0.0.1:{free_port()}",
            drain_s=drain_s,
        )
        started.append(Running(settings))
        return started[-1]

    yield begin
    for each in started:
        each.stop()
        each.join()


def ask(running: Running, begun: threading.Event) -> bytes:
    """Read a streamed answer to its end; says when the first piece is there."""
    received = b""
    body = {"model": "a", "messages": [], "stream": True}
    with httpx.stream("POST", running.url + CHAT, json=body, timeout=30) as answer:
        for piece in answer.iter_raw():
            received += piece
            begun.set()
    return received


def follow(running: Running, begun: threading.Event) -> float:
    """Follow the job's events to the end of the stream; returns when that was."""
    url = f"{running.url}/v1/adaptations/{running.job_id}/events"
    with httpx.stream("GET", url, headers={"accept": "text/event-stream"}, timeout=30) as answer:
        for _ in answer.iter_raw():
            begun.set()
    return time.monotonic()


def test_answers_are_finished_and_event_streams_let_go(start: Start) -> None:
    running = start(20)
    answering, following = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        answer, events = pool.submit(ask, running, answering), pool.submit(follow, running, following)
        assert answering.wait(20)
        assert following.wait(20)
        running.stop()
        told_at = time.monotonic()
        assert answer.result(30) == b"".join(PIECES)
        finished_at = time.monotonic()
        assert events.result(30) < finished_at
    running.join()
    assert finished_at - told_at > PAUSE_S
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/health", trust_env=False)


def test_after_the_time_is_over_an_answer_is_cut(start: Start) -> None:
    running = start(0)
    answering = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, running, answering)
        assert answering.wait(20)
        running.stop()
        with pytest.raises(httpx.HTTPError):
            answer.result(30)
    running.join()
