"""The way of a request by its `model` to the replicas of a group; a scripted server speaks for Serve's proxy."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from scripted_service import Answer, ScriptedService, refusal

from api.auth import Caller
from api.gateway.directory import Directory
from eda_service.errors import ModelNotFoundError
from eda_service.jobstore import Deployment, JobStore
from eda_service.raycluster.serve_plan import group_key

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]
ADA = Caller("ada", frozenset({"infer"}))


@pytest.fixture
def serve_port(proxy: ScriptedService) -> int:
    return httpx.URL(proxy.url).port or 0


def put(store: JobStore, name: str, model: str = "org/base", owner: str = "local") -> str:
    """Deploy, and return the path prefix of the group."""
    target = {"model": model, "adapter": None, "revision": None, "dtype": "auto"}
    store.deployments.put(
        Deployment(name=name, owner=owner, target=target, base_draft=None, pack=None), made_by=owner, reason="x"
    )
    return f"/groups/{group_key(target)}"


def ask(client: TestClient, model: str, path: str = CHAT, **changes: Any) -> Any:
    return client.post(path, json={"model": model, "messages": HI, **changes})


def error(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()["error"]
    return found


def test_each_model_reaches_its_group(client: TestClient, store: JobStore, proxy: ScriptedService) -> None:
    one, other = put(store, "a"), put(store, "c", "org/other")
    assert put(store, "b") == one
    for prefix, word in ((one, "one"), (other, "other")):
        for path in (CHAT, "/v1/completions"):
            proxy.on("POST", f"{prefix}{path}", Answer({"said": word}))
    assert [ask(client, name).json()["said"] for name in ("a", "b", "c")] == ["one", "one", "other"]
    assert ask(client, "c", "/v1/completions").json()["said"] == "other"
    sent = proxy.seen("POST", f"{one}{CHAT}")[1]
    assert sent.headers["x-eda-deployment"] == store.deployments.get("b").uid
    assert sent.body == {"model": "b", "messages": HI}
    assert sent.headers["x-request-id"].startswith("req_")


def test_headers_that_steer_serve_do_not_go_through(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    """Serve takes `x-request-timeout-seconds` and its like from whoever asks."""
    prefix = put(store, "a")
    proxy.on("POST", f"{prefix}{CHAT}", Answer({"ok": True}))
    steering = {
        "x-request-timeout-seconds": "99999",
        "x-eda-deployment": "dep_of_another",
        "x-request-disconnect-disabled": "true",
        "serve_multiplexed_model_id": "b",
        "authorization": "Bearer eda_1_2",
        "cookie": "eda_session=x",
        "x-forwarded-for": "127.0.0.1",
    }
    body = {"model": "a", "messages": HI}
    assert client.post(CHAT, json=body, headers=steering).status_code == 200
    (seen,) = proxy.seen("POST", f"{prefix}{CHAT}")
    assert seen.headers["x-eda-deployment"] == store.deployments.get("a").uid
    assert not (steering.keys() - {"x-eda-deployment"}) & seen.headers.keys()
    assert seen.headers["x-request-id"].startswith("req_")


def test_a_stream_and_an_error_come_through_as_they_are(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    prefix = put(store, "a")
    pieces = (b'data: {"a": 1}\n\n', b"data: [DONE]\n\n")
    proxy.on("POST", f"{prefix}{CHAT}", Answer(headers={"content-type": "text/event-stream"}, chunks=pieces))
    with client.stream("POST", CHAT, json={"model": "a", "messages": HI, "stream": True}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert b"".join(answer.iter_bytes()) == b"".join(pieces)
    proxy.on("POST", f"{prefix}{CHAT}", refusal(429, "overloaded", retry_after="1"))
    refused = ask(client, "a")
    assert error(refused, 429)["code"] == "overloaded"
    assert refused.headers["retry-after"] == "1"


def test_what_cannot_be_loaded_says_why_and_that_asking_again_does_not_help(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    prefix = put(store, "a")
    failed = {"reason": "hybrid attention", "message": "", "data": {}, "retry_in_s": None, "serves": None}
    store.loads.record_failure("a", store.deployments.get("a").uid, 0, **failed)  # type: ignore[arg-type]
    answer = ask(client, "a")
    found = error(answer, 503)
    assert found["code"] == "deployment_failed"
    assert "hybrid attention; sending the request again does not help" in found["message"]
    assert "eda deployments restart a" in found["message"]
    assert (answer.headers["x-should-retry"], "retry-after" in answer.headers) == ("false", False)
    assert proxy.seen("POST", f"{prefix}{CHAT}") == []
    proxy.on("POST", f"{prefix}{CHAT}", Answer({"said": "one"}))
    assert client.post("/v1/deployments/a/restart").status_code == 200
    assert ask(client, "a").json()["said"] == "one"
    refused = client.post("/v1/deployments/a/restart")
    assert error(refused, 409)["message"] == "deployment a has not failed to load; there is nothing to start again"


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(client: TestClient, store: JobStore) -> None:
    assert "nothing is served yet" in error(ask(client, "a"), 404)["message"]
    put(store, "a")
    put(store, "b")
    found = error(ask(client, "nobody"), 404)
    assert (found["code"], found["param"], found["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert "there is a, b" in found["message"]
    assert error(client.get("/v1/models/nobody"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize(
    "answer",
    [
        refusal(404, "not_found"),
        Answer(body=b"not found", status=404),
        Answer(body=b"no replica", status=503),
        Answer(body=b"oops", status=500),
        Answer(drop=True),
    ],
    ids=["replica-knows-no-such-name", "no-route", "no-replica", "proxy-error", "no-answer"],
)
def test_what_is_deployed_and_not_loaded_is_unavailable_for_now(
    client: TestClient, store: JobStore, proxy: ScriptedService, answer: Answer
) -> None:
    proxy.on("POST", f"{put(store, 'a')}{CHAT}", answer)
    unavailable = ask(client, "a")
    found = error(unavailable, 503)
    assert (found["code"], found["type"]) == ("endpoint_unavailable", "server_error")
    assert "a is being loaded" in found["message"]
    assert int(unavailable.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b"[1]", "invalid_json", None),
        (b"", "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        (b"{}", "invalid_request", "model"),
        (b'{"model": 3}', "invalid_request", "model"),
        (b'{"model": ""}', "invalid_request", "model"),
    ],
)
def test_a_body_that_names_no_model_is_refused_here(
    client: TestClient, proxy: ScriptedService, body: bytes, code: str, param: str | None
) -> None:
    for path in (CHAT, "/v1/completions"):
        found = error(client.post(path, content=body, headers={"content-type": "application/json"}), 400)
        assert (found["code"], found["param"]) == (code, param)
    assert proxy.requests == []


def test_models_come_from_the_rows_and_one_from_its_replica(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    prefix = put(store, "a")
    listed = client.get("/v1/models").json()
    assert [(each["id"], each["object"], each["owned_by"]) for each in listed["data"]] == [("a", "model", "eda")]
    proxy.on("GET", f"{prefix}/v1/models/a", Answer({"id": "a", "max_model_len": 2048}))
    assert client.get("/v1/models/a").json()["max_model_len"] == 2048


class Counting:
    """A store that counts how often it is read."""

    def __init__(self, store: JobStore) -> None:
        self.num_reads, self._store, self.loads, self.deployments = 0, store, store.loads, self

    def all(self, *, unreadable: bool) -> list[Deployment]:
        """Return the deployments of the store, as `store.deployments.all` does, and count the call."""
        self.num_reads += 1
        return self._store.deployments.all(unreadable=unreadable)


def test_a_deleted_deployment_takes_no_request_any_more(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    prefix = put(store, "a")
    proxy.on("POST", f"{prefix}{CHAT}", Answer({"said": "one"}))
    for _ in range(2):
        assert ask(client, "a").status_code == 200
    assert client.delete("/v1/deployments/a").status_code == 200
    assert error(ask(client, "a"), 404)["code"] == "model_not_found"


def test_rows_that_were_read_before_a_change_are_read_again(store: JobStore) -> None:
    directory = Directory(store, clock=lambda: 1.0)
    put(store, "a")
    read = store.deployments.all

    def slow(*, unreadable: bool) -> list[Deployment]:
        found = read(unreadable=unreadable)
        directory.forget()  # a change comes while the rows are on their way
        return found

    store.deployments.all = slow  # type: ignore[method-assign]
    assert directory.find("a", Caller("local", frozenset({"admin"}))).deployment.name == "a"
    assert directory.known("a", Caller("local", frozenset({"admin"}))) is None


def test_rows_are_read_once_a_second_and_before_a_name_is_called_unknown(store: JobStore) -> None:
    put(store, "a", owner="ada")
    put(store, "hers", owner="eve")
    counting, now = Counting(store), [0.0]
    directory = Directory(counting, clock=lambda: now[0])  # type: ignore[arg-type]
    assert directory.known("a", ADA) is None
    assert directory.find("a", ADA).deployment.name == "a"
    for _ in range(10):
        assert directory.known("a", ADA) is not None
    assert counting.num_reads == 1
    assert directory.known("hers", ADA) is None
    put(store, "new", owner="ada")
    assert directory.find("new", ADA).deployment.name == "new"
    with pytest.raises(ModelNotFoundError, match=r"there is a, new$"):
        directory.find("hers", ADA)
    store.deployments.delete("a")
    now[0] += 2
    assert directory.known("a", ADA) is None
    with pytest.raises(ModelNotFoundError):
        directory.find("a", ADA)


@pytest.mark.parametrize(
    "pieces", [(b'data: {"a": 1}\n\n',), (b'data: {"a": 1}\n\n', b'data: {"b')], ids=["whole", "torn"]
)
def test_a_stream_whose_replica_dies_ends_with_an_error(
    client: TestClient, store: JobStore, proxy: ScriptedService, pieces: tuple[bytes, ...]
) -> None:
    prefix = put(store, "a")
    proxy.on("POST", f"{prefix}{CHAT}", Answer(headers={"content-type": "text/event-stream"}, chunks=pieces))
    with client.stream("POST", CHAT, json={"model": "a", "messages": HI, "stream": True}) as answer:
        events = b"".join(answer.iter_bytes()).split(b"\n\n")
    assert events[0] == b'data: {"a": 1}'
    assert events[-2:] == [b"data: [DONE]", b""]
    assert b"replica_lost" in events[-3]
