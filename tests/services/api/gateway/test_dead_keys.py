"""What is open when its key is revoked or expires ends within seconds, and frees what it held; others' go on.

Real sockets everywhere: the API on uvicorn, and a tiny target's endpoint in the place of Serve, slowed down.
"""

from __future__ import annotations

import inspect
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from live_api import BODY, LiveApi, live_api
from live_endpoint import LiveEndpoint, live_endpoint, make_pair

from api.app import create_app
from api.settings import Settings
from api.ui.sessions import COOKIE, Sessions
from eda_service.client import ApiError, Client
from eda_service.config.export_forms import Destination, ExportForm
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.tasks import ExportConfig
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams, StepOutput
from eda_service.jobstore import Deployment, JobStore
from eda_service.raycluster.processes import free_port
from eda_service.raycluster.serve_plan import group_key, route_prefix_of
from eda_service.targets.loader import Target

WITHIN_S = 5.0
SCOPES = ("jobs:read", "jobs:write", "infer")
TARGET = {"model": "org/model", "adapter": None, "revision": None, "dtype": "auto"}
LONG = {"model": "tiny", "max_tokens": 400, "temperature": 0}
MESSAGES = [{"role": "user", "content": "Hi"}]


@dataclass
class World:
    """The service with a job and a deployment of `ann`'s, whose answers take half a minute."""

    api: LiveApi
    endpoint: LiveEndpoint
    job_id: str

    @property
    def store(self) -> JobStore:
        return self.api.store

    def key(self, *, expires_at: int | None = None) -> Key:
        info, text = self.store.keys.create("ann", "test", SCOPES, expires_at)
        sessions = Sessions(self.api.home)
        session = sessions.new(info.id)
        return Key(info.id, text, sessions.seal(session), sessions.form_token(session))


@dataclass(frozen=True)
class Key:
    """A key, as a bearer and as a browser that has logged in with it."""

    id: str
    text: str
    cookie: str
    form_token: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.text}"}

    @property
    def browser(self) -> dict[str, str]:
        return {"cookie": f"{COOKIE}={self.cookie}", "x-form-token": self.form_token}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_target: Target) -> Iterator[World]:
    engine = Engine(tiny_target, max_batch=8, max_tokens=450)
    step, submit, port = engine.step, engine.submit, free_port()

    def slow() -> list[StepOutput]:
        time.sleep(0.08)
        return step()

    def to_the_end(request_id: str, prompt_ids: list[int], params: SamplingParams, **options: Any) -> None:
        submit(request_id, prompt_ids, replace(params, ignore_eos=True), **options)

    engine.step, engine.submit = slow, to_the_end  # type: ignore[method-assign]  # the same, later and longer
    root, prefix = tmp_path_factory.mktemp("dead"), route_prefix_of(group_key(TARGET))
    with live_api(root, serve_port=port) as api:
        config = AdaptConfig(target=TargetSpec(model="org/model"), base_draft="small@1")
        job, _ = api.store.jobs.create(config, owner="ann")
        export = ExportConfig(target=config.target, pack="tiny@1", to=Destination.VLLM, form=ExportForm.PLUGIN)
        api.store.jobs.create(export, owner="ann")
        made = Deployment(name="tiny", owner="ann", target=TARGET, base_draft=None, pack=None)
        uid = api.store.deployments.put(made, made_by="ann", reason="x").uid
        pair = make_pair("tiny", tiny_target, engine, uid=uid)
        with live_endpoint([pair], port=port, prefix=prefix) as endpoint:
            yield World(api, endpoint, job.id)


@dataclass
class Reader:
    """Reads an answer as it comes, in a thread of its own.

    Attributes:
        pieces: With the times they came at.
        ended_at: When it was over; by `error` where the connection was cut.
    """

    url: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any = None
    status: int | None = None
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    ended_at: float | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._http = httpx.Client(base_url=self.url, timeout=60)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self._http.stream(self.method, self.path, headers=self.headers, json=self.body) as answer:
                self.status = answer.status_code
                for piece in answer.iter_raw():
                    self.pieces.append((time.monotonic(), piece))
        except httpx.HTTPError as error:
            self.error = error
        self.ended_at = time.monotonic()

    @property
    def text(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)

    def wait(self, what: Callable[[Reader], bool], timeout_s: float = 20.0) -> None:
        ends_at = time.monotonic() + timeout_s
        while not what(self):
            assert time.monotonic() < ends_at, (self.path, self.status, self.text[-300:])
            time.sleep(0.01)

    def close(self) -> None:
        self._http.close()


STREAMS: dict[str, tuple[str, str, Any, bool]] = {
    "job-events": ("GET", "/v1/adaptations/{job}/events", None, False),
    "job-events-of-any-kind": ("GET", "/v1/jobs/{job}/events", None, False),
    "chat": ("POST", "/v1/chat/completions", {**LONG, "messages": MESSAGES, "stream": True}, False),
    "completion": ("POST", "/v1/completions", {**LONG, "prompt": [5, 6], "stream": True}, False),
    "playground": ("POST", "/ui/playground/answer", {"model": "tiny", "prompt": "Hi", "max_tokens": 400}, True),
    "first-page": ("GET", "/ui/stream", None, True),
    "page-of-jobs": ("GET", "/ui/jobs/stream", None, True),
    "page-of-a-job": ("GET", "/ui/jobs/{job}/stream", None, True),
    "page-of-deployments": ("GET", "/ui/deployments/stream", None, True),
    "page-of-a-deployment": ("GET", "/ui/deployments/tiny/stream", None, True),
    "page-of-exports": ("GET", "/ui/packs/tiny/export/stream", None, True),
}


def read(world: World, kind: str, key: Key) -> Reader:
    method, path, body, in_browser = STREAMS[kind]
    headers = {**(key.browser if in_browser else key.bearer), "accept": "text/event-stream"}
    return Reader(world.api.url, method, path.format(job=world.job_id), headers, body)


def openai_end(text: bytes) -> dict[str, Any]:
    """The error at the end of a streamed answer, which has exactly one `[DONE]`."""
    *_, error, done, rest = text.split(b"\n\n")
    assert (done, rest, text.count(b"[DONE]")) == (b"data: [DONE]", b"", 1)
    found: dict[str, Any] = json.loads(error.removeprefix(b"data: "))["error"]
    return found


def check_end(kind: str, text: bytes) -> None:
    if "page" in kind:
        assert text.endswith(b"event: over\ndata: {}\n\n")
        return
    if kind.startswith("job-events"):
        name, data = text.removesuffix(b"\n\n").split(b"\n\n")[-1].split(b"\n")
        assert name == b"event: error"
        error = json.loads(data.removeprefix(b"data: "))["error"]
    else:
        error = openai_end(text)
    assert (error["code"], error["type"], error["param"]) == ("invalid_api_key", "invalid_request_error", None)
    assert "revoked or has expired" in error["message"]


def test_every_route_that_streams_is_tried(world: World) -> None:
    """Whatever answers with a stream of events, or passes an answer on, to a good key is in the table."""
    app = create_app(Settings(database_url="sqlite://"))
    ui = next(route.app for route in app.routes if getattr(route, "path", "") == "/ui")  # type: ignore[attr-defined]
    routes = [(route, "") for route in app.routes] + [(route, "/ui") for route in ui.routes]
    words = ("streams.answer(", "events_of(", "gateway.forward(", "gateway.send(", "StreamingResponse(")
    paths = {
        prefix + each.path
        for each, prefix in routes
        if isinstance(each, APIRoute) and any(word in inspect.getsource(each.endpoint) for word in words)
    }
    tried = {path.format(job="{job_id}").replace("tiny", "{name}") for _, path, _, _ in STREAMS.values()}
    assert paths - {"/v1/models/{name}"} == tried


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_ends_soon_after_its_key_is_revoked_and_others_go_on(world: World, kind: str) -> None:
    doomed, good = world.key(), world.key()
    theirs, others = read(world, kind, doomed), read(world, kind, good)
    for each in (theirs, others):
        each.wait(lambda reader: len(reader.pieces) >= 1)
        assert each.status == 200, each.text
    world.store.keys.revoke(doomed.id)
    revoked_at = time.monotonic()
    theirs.wait(lambda reader: reader.ended_at is not None, WITHIN_S)
    assert theirs.error is None
    check_end(kind, theirs.text)
    again = read(world, kind, doomed)
    again.wait(lambda reader: reader.ended_at is not None)
    assert again.status == 401
    seen = len(others.pieces)
    others.wait(lambda reader: len(reader.pieces) > seen)
    assert others.ended_at is None
    assert others.pieces[-1][0] > revoked_at
    others.close()
    world.endpoint.wait_idle(timeout_s=10)  # the slots are free, long before the answers would have ended


def test_a_stream_ends_when_its_key_expires(world: World) -> None:
    began_at = time.time()
    expires_at = int(began_at) + 3
    reader = read(world, "chat", world.key(expires_at=expires_at))
    reader.wait(lambda each: each.ended_at is not None)
    check_end("chat", reader.text)
    assert expires_at - began_at - 0.5 <= time.time() - began_at <= expires_at - began_at + WITHIN_S
    world.endpoint.wait_idle(timeout_s=10)


def test_an_answer_that_has_not_begun_is_refused_and_its_slot_is_free(world: World) -> None:
    """One body at the end, so nothing of it is out yet."""
    doomed = world.key()
    body = {**LONG, "messages": MESSAGES}
    reader = Reader(world.api.url, "POST", "/v1/chat/completions", doomed.bearer, body)
    while not world.endpoint.runner().num_running:
        time.sleep(0.01)
    world.store.keys.revoke(doomed.id)
    reader.wait(lambda each: each.ended_at is not None, WITHIN_S)
    assert (reader.status, json.loads(reader.text)["error"]["code"]) == (401, "invalid_api_key")
    world.endpoint.wait_idle(timeout_s=5)


def test_a_client_that_reads_nothing_holds_no_slot_after_its_key(world: World) -> None:
    """Its connection takes no last event either."""
    doomed = world.key()
    content = json.dumps({**LONG, "n": 8, "prompt": [5, 6], "stream": True, "logprobs": 5}).encode()
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connected.connect(("127.0.0.1", int(world.api.url.rsplit(":", 1)[1])))
    lines = ["POST /v1/completions HTTP/1.1", "host: localhost", f"authorization: Bearer {doomed.text}"]
    lines += ["content-type: application/json", f"content-length: {len(content)}", "", ""]
    connected.sendall("\r\n".join(lines).encode() + content)
    while not world.endpoint.runner().num_running:
        time.sleep(0.01)
    world.store.keys.revoke(doomed.id)
    world.endpoint.wait_idle(timeout_s=WITHIN_S)
    connected.close()


def test_the_limit_of_open_requests_counts_those_of_a_dead_key_no_more(world: World) -> None:
    info, text = world.store.keys.create("ann", "one at a time", SCOPES, concurrent_requests=1)
    headers = {"authorization": f"Bearer {text}"}
    body = {**LONG, "prompt": [5, 6], "stream": True}
    first = Reader(world.api.url, "POST", "/v1/completions", headers, body)
    first.wait(lambda each: len(each.pieces) >= 1)
    second = httpx.post(f"{world.api.url}/v1/completions", headers=headers, json=body, timeout=30)
    assert second.status_code == 429
    world.store.keys.revoke(info.id)
    third = httpx.post(f"{world.api.url}/v1/completions", headers=headers, json=body, timeout=30)
    assert (third.status_code, third.json()["error"]["code"]) == (401, "invalid_api_key")
    first.wait(lambda each: each.ended_at is not None, WITHIN_S)
    world.endpoint.wait_idle(timeout_s=10)


def test_a_session_ends_with_its_key(world: World) -> None:
    """A page, a form and a stream of a browser that is still logged in."""
    doomed = world.key()
    http = httpx.Client(base_url=world.api.url, headers=doomed.browser, timeout=30)
    assert http.get("/ui/jobs").status_code == 200
    world.store.keys.revoke(doomed.id)
    assert http.get("/ui/jobs").status_code == 401
    assert http.get("/ui/jobs", headers={"accept": "text/html"}).headers["location"].startswith("/ui/login")
    form = {"token": doomed.form_token}
    assert http.post(f"/ui/jobs/{world.job_id}/cancel", data=form).status_code == 401
    assert world.store.jobs.get(world.job_id).status == "queued"
    http.close()


def test_the_client_says_that_its_key_is_dead(world: World) -> None:
    doomed = world.key()
    threading.Timer(1.0, world.store.keys.revoke, (doomed.id,)).start()
    with Client(world.api.url, api_key=doomed.text) as client, pytest.raises(ApiError, match="revoked") as caught:
        list(client.stream_events(world.job_id))
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_what_began_without_keys_ends_with_the_first_key(tmp_path: Path) -> None:
    with live_api(tmp_path) as api:
        job_id = httpx.post(f"{api.url}/v1/adaptations", json=BODY).json()["id"]
        headers = {"accept": "text/event-stream"}
        reader = Reader(api.url, "GET", f"/v1/adaptations/{job_id}/events", headers)
        reader.wait(lambda each: len(each.pieces) >= 1)
        api.store.keys.create("ann", "first", SCOPES)
        reader.wait(lambda each: each.ended_at is not None, WITHIN_S)
        check_end("job-events", reader.text)


def test_a_database_that_does_not_answer_ends_nothing_and_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = threading.Event(), world.store.keys.dead

    def away(_: Any) -> set[str]:
        asked.set()
        raise OSError("the database is away")

    monkeypatch.setattr(world.store.keys, "dead", away)
    doomed = world.key()
    reader = read(world, "job-events", doomed)
    reader.wait(lambda each: len(each.pieces) >= 1)
    world.store.keys.revoke(doomed.id)
    assert asked.wait(10)
    assert reader.ended_at is None
    monkeypatch.setattr(world.store.keys, "dead", real)
    reader.wait(lambda each: each.ended_at is not None, WITHIN_S)
    check_end("job-events", reader.text)
