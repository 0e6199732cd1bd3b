"""Two owners and every route that knows jobs, taken from the application itself: a new route cannot be forgotten."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from draft_files import put_draft
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pack_files import put_pack

from api.app import create_app
from api.settings import Settings
from eda_service.jobstore import Deployment, JobStore
from eda_service.storage.published.registry import reserve_draft

BODY: dict[str, Any] = {"model": "org/model", "base_draft": "small@1"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/adaptations": BODY,
    "/v1/adaptations/estimate": BODY,
    "/v1/adaptations/{job_id}": {"priority": 90},
    "/v1/jobs/{job_id}": {"priority": 90},
    "/v1/drafts": {"source": "org/draft", "model": "org/model"},
    "/v1/measurements": {"model": "org/model", "draft": "small@1"},
    "/v1/fine_tuning/jobs": {"model": "org/model", "training_file": "self", "base_draft": "small@1"},
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"model": "m", "prompt": "Hi"},
    "/v1/deployments/{name}": {"labels": {"a": "b"}},
    "/v1/deployments/{name}/rollback": {},
    "/v1/deployments/{name}/restart": {},
    "/v1/packs/{name}/champion": {"version": 1},
}
WITH_BODY = {"POST", "PUT", "PATCH"}
OPEN = {"/", "/health", "/openapi.json", "/docs"}
ROUTES = sorted(
    (method, route.path)
    for route in create_app(Settings(database_url="sqlite://")).routes
    if isinstance(route, APIRoute)
    for method in route.methods
)
OF_A_JOB = [(method, path) for method, path in ROUTES if "{job_id}" in path]
OF_A_NAME = [(method, path) for method, path in ROUTES if "{name}" in path]


@pytest.fixture
def app_client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def store(app_client: TestClient) -> JobStore:
    found: JobStore = app_client.app.state.services.store  # type: ignore[attr-defined]
    return found


def key(store: JobStore, owner: str, *scopes: str) -> dict[str, str]:
    _, text = store.keys.create(owner, "test", list(scopes or ("jobs:read", "jobs:write", "infer")), None)
    return {"authorization": f"Bearer {text}"}


def call(
    client: TestClient, method: str, path: str, headers: dict[str, str], job_id: str = "adapt_x", *, name: str = "m"
) -> Any:
    url = re.sub(
        r"\{plot\}",
        "acceptance",
        path.replace("{job_id}", job_id).replace("{name}", name).replace("{file_id}", "file-x"),
    )
    return client.request(method, url, headers=headers, json=BODIES.get(path) if method in WITH_BODY else None)


def test_every_route_is_listed_here_as_open_or_asks_for_a_key() -> None:
    assert len(OF_A_JOB) >= 11
    assert len(OF_A_NAME) >= 8
    assert all(
        any(each in path for each in ("{job_id}", "{name}", "{file_id}")) or "{" not in path for _, path in ROUTES
    )
    assert {path for _, path in ROUTES} >= OPEN - {"/openapi.json"}


@pytest.mark.parametrize(("method", "path"), [each for each in ROUTES if each[1] not in OPEN])
def test_without_a_key_every_route_is_shut(app_client: TestClient, store: JobStore, method: str, path: str) -> None:
    key(store, "a")
    for headers in ({}, {"authorization": "Bearer eda_x_y"}, {"authorization": "Basic eda"}):
        answer = call(app_client, method, path, headers)
        assert answer.status_code == 401, answer.text
        assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(("method", "path"), OF_A_JOB)
def test_another_owners_job_does_not_exist(app_client: TestClient, store: JobStore, method: str, path: str) -> None:
    mine, other = key(store, "a"), key(store, "b")
    job_id = app_client.post("/v1/adaptations", json=BODY, headers=mine).json()["id"]
    answer, nowhere = (call(app_client, method, path, other, each) for each in (job_id, "adapt_none"))
    assert answer.status_code == nowhere.status_code == 404
    assert answer.json()["error"]["message"].replace(job_id, "X") == nowhere.json()["error"]["message"].replace(
        "adapt_none", "X"
    )
    assert store.jobs.get(job_id).status == "queued"
    assert call(app_client, method, path, mine, job_id).status_code in {200, 404, 409}
    admin = key(store, "c", "admin")
    assert app_client.get(f"/v1/adaptations/{job_id}", headers=admin).status_code == 200


@pytest.mark.parametrize(("method", "path"), OF_A_NAME)
def test_another_owners_deployment_or_pack_does_not_exist(
    app_client: TestClient, store: JobStore, settings: Settings, method: str, path: str
) -> None:
    """Of the same name: a deployment of ada's, a pack that her job published, and a draft that another one imported."""
    mine, other = key(store, "a"), key(store, "b")
    job_id = app_client.post("/v1/adaptations", json=BODY, headers=mine).json()["id"]
    put_pack(settings.home, "hers", 2.0, job_id=job_id)
    put_draft(settings.home, "hers", reserve_draft("hers", job_id, settings.home))
    target = {"model": "org/base", "adapter": None, "revision": None, "dtype": "auto"}
    hers = Deployment(name="hers", owner="a", target=target, base_draft="small@1", pack=None)
    store.deployments.put(hers, made_by="a", reason="x")
    before = store.deployments.get("hers", owner="a")
    answer, nowhere = (call(app_client, method, path, other, name=each) for each in ("hers", "none"))
    assert answer.status_code == nowhere.status_code == 404, answer.text
    wanted = re.sub(r"\bnone\b", "X", nowhere.json()["error"]["message"])
    assert re.sub(r"\bhers\b", "X", answer.json()["error"]["message"]) == wanted
    assert store.deployments.get("hers", owner="a") == before
    assert call(app_client, method, path, mine, name="hers").status_code in {200, 204, 409, 503}


def test_lists_and_keys_of_idempotency_are_each_owners_own(app_client: TestClient, store: JobStore) -> None:
    mine, other = key(store, "a"), key(store, "b")
    first = app_client.post("/v1/adaptations", json=BODY, headers={**mine, "idempotency-key": "k"}).json()
    second = app_client.post("/v1/adaptations", json=BODY, headers={**other, "idempotency-key": "k"}).json()
    assert first["id"] != second["id"]
    assert (first["owner"], second["owner"]) == ("a", "b")
    for headers, job in ((mine, first), (other, second)):
        assert [each["id"] for each in app_client.get("/v1/adaptations", headers=headers).json()["data"]] == [job["id"]]
    answer = app_client.get("/v1/adaptations", params={"after": first["id"]}, headers=other)
    assert answer.status_code == 404


def test_scopes_are_kept_apart(app_client: TestClient, store: JobStore) -> None:
    reader, infer = key(store, "a", "jobs:read"), key(store, "a", "infer")
    assert app_client.get("/v1/adaptations", headers=reader).status_code == 200
    for method, url, headers in (
        ("POST", "/v1/adaptations", reader),
        ("GET", "/v1/adaptations", infer),
        ("GET", "/v1/models", reader),
    ):
        answer = app_client.request(method, url, headers=headers, json=BODY if method == "POST" else None)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "insufficient_scope"


def test_a_revoked_or_expired_key_is_no_key(app_client: TestClient, store: JobStore) -> None:
    info, text = store.keys.create("a", "test", ["jobs:read"], None)
    headers = {"authorization": f"Bearer {text}"}
    assert app_client.get("/v1/adaptations", headers=headers).status_code == 200
    store.keys.revoke(info.id)
    assert app_client.get("/v1/adaptations", headers=headers).status_code == 401
    _, short = store.keys.create("a", "short", ["jobs:read"], int(time.time()) + 2)
    headers = {"authorization": f"Bearer {short}"}
    assert app_client.get("/v1/adaptations", headers=headers).status_code == 200
    time.sleep(2.1)
    assert app_client.get("/v1/adaptations", headers=headers).status_code == 401


def test_more_queued_jobs_than_an_owner_may_have_are_refused(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"max_queued_per_owner": 2}))) as client:
        for n in range(2):
            assert client.post("/v1/adaptations", json={**BODY, "seed": n}).status_code == 201
        answer = client.post("/v1/adaptations", json={**BODY, "seed": 2})
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "quota_exceeded"
        assert int(answer.headers["retry-after"]) >= 1
        cancelled = client.get("/v1/adaptations").json()["data"][0]["id"]
        assert client.post(f"/v1/adaptations/{cancelled}/cancel").json()["status"] == "cancelled"
        assert client.post("/v1/adaptations", json={**BODY, "seed": 2}).status_code == 201
        again = client.post(f"/v1/adaptations/{cancelled}/retry")
        assert (again.status_code, again.json()["error"]["code"]) == (429, "quota_exceeded")
        assert client.get(f"/v1/adaptations/{cancelled}").json()["status"] == "cancelled"
