"""The jobs resource over HTTP: what is accepted, what is refused and how, and what is replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.__main__ import only_one
from api.app import create_app
from api.auth import require_safe_host
from api.settings import Settings
from eda_service.errors import InputError
from eda_service.jobstore import JobStore, Status
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir

BODY: dict[str, Any] = {"model": "org/model", "base_draft": "small@1"}


def post(client: TestClient, **changes: Any) -> Any:
    return client.post("/v1/adaptations", json={**BODY, **changes})


def assert_error(response: Any, status: int, code: str, param: str | None) -> str:
    """The one error shape, exactly; returns its message."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert (body["error"]["code"], body["error"]["param"]) == (code, param)
    assert response.headers["x-request-id"]
    message: str = body["error"]["message"]
    return message


def test_create_answers_with_the_job(client: TestClient) -> None:
    response = post(
        client,
        dataset={"source": "reasoning-gym:gsm_symbolic", "num_prompts": 64},
        seed=3,
        method={"type": "eda", "eda": {"epochs": 2, "keep_fraction": 0.25, "unroll_steps": 3, "selector": "random"}},
        metadata={"team": "math"},
        priority=70,
        served_name="math",
        config={"train": {"zero_stage": 0}},
    )
    assert response.status_code == 201
    job = response.json()
    assert response.headers["location"] == f"/v1/adaptations/{job['id']}"
    assert job["object"] == "adaptation.job"
    assert (job["status"], job["stage"], job["attempt"], job["max_attempts"]) == ("queued", None, 0, 3)
    assert (job["model"], job["base_draft"], job["served_name"]) == ("org/model", "small@1", "math")
    assert (job["seed"], job["priority"], job["metadata"]) == (3, 70, {"team": "math"})
    assert job["dataset"] == {
        "source": "reasoning-gym:gsm_symbolic",
        "split": "train",
        "num_prompts": 64,
        "sha256": None,
    }
    assert job["method"]["eda"]["keep_fraction"] == 0.25
    config = job["config"]
    assert (config["train"]["epochs"], config["train"]["zero_stage"]) == (2, 0)
    assert config["train"]["loss"]["unroll_steps"] == 3
    assert config["selection"]["method"] == "random"
    assert client.get(f"/v1/adaptations/{job['id']}").json() == job


@pytest.mark.parametrize(
    ("request_fields", "wanted"),
    [
        ({}, (True, 1.02, 1.0)),
        ({"deploy": False}, (False, 1.02, 1.0)),
        ({"min_gain": 0}, (True, 0.0, 1.0)),
        ({"deploy": True, "min_gain": 1.1, "config": {"deploy": {"min_speed_gain": None}}}, (True, 1.1, None)),
        ({"min_gain": 1.1, "config": {"deploy": {"min_gain": 1.3}}}, (True, 1.3, 1.0)),
    ],
)
def test_what_a_pack_has_to_gain_is_part_of_the_request(
    client: TestClient, request_fields: dict[str, Any], wanted: tuple[bool, float, float | None]
) -> None:
    deploy = post(client, **request_fields).json()["config"]["deploy"]
    assert (deploy["enabled"], deploy["min_gain"], deploy["min_speed_gain"]) == wanted
    assert_error(post(client, min_gain=-1), 400, "invalid_request", "min_gain")


def test_a_preset_lies_below_the_request(client: TestClient) -> None:
    job = post(client, preset="demo", dataset={"num_prompts": 99}, method={"eda": {"epochs": 1}}).json()
    assert job["dataset"]["num_prompts"] == 99
    assert job["dataset"]["source"].startswith("reasoning-gym:")
    train = job["config"]["train"]
    assert (train["epochs"], train["loss"]["unroll_steps"]) == (1, 3)
    assert_error(post(client, preset="none"), 400, "invalid_request", "preset")


def test_version_of_the_base_draft_is_pinned(client: TestClient) -> None:
    assert post(client, base_draft="small").json()["base_draft"] == "small@1"


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"model": None}, "invalid_request", "model"),
        ({"model": "../etc"}, "target_not_found", "model"),
        ({"model": "a/b/c"}, "target_not_found", "model"),
        ({"model": "x; rm -rf"}, "target_not_found", "model"),
        ({"model": "/etc"}, "invalid_request", "model"),
        ({"adapter": "/etc/passwd"}, "invalid_request", "adapter"),
        ({"revision": "../x"}, "invalid_request", "revision"),
        ({"base_draft": "nobody@1"}, "base_draft_missing", "base_draft"),
        ({"base_draft": "small@2"}, "base_draft_missing", "base_draft"),
        ({"base_draft": "../small"}, "base_draft_missing", "base_draft"),
        ({"dataset": {"source": "no such file.jsonl"}}, "dataset_invalid", "dataset.source"),
        ({"dataset": {"source": "/etc/hostname"}}, "invalid_request", "dataset.source"),
        ({"dataset": {"num_prompts": 1}}, "invalid_request", "dataset.num_prompts"),
        ({"method": {"type": "magic"}}, "invalid_request", "method.type"),
        ({"method": {"eda": {"epochs": 0}}}, "invalid_request", "method.eda.epochs"),
        ({"config": {"train": {"epochs": 0}}}, "invalid_request", "train.epochs"),
        ({"config": {"served_name": "a/b c"}}, "invalid_request", "served_name"),
        ({"served_name": "a b"}, "invalid_request", "served_name"),
        ({"priority": 101}, "invalid_request", "priority"),
        ({"seed": -1}, "invalid_request", "seed"),
        ({"colour": "red"}, "invalid_request", "colour"),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "invalid_request", "metadata"),
    ],
)
def test_bad_requests_name_the_field(client: TestClient, changes: dict[str, Any], code: str, param: str) -> None:
    assert_error(post(client, **changes), 400, code, param)
    assert client.get("/v1/adaptations").json()["data"] == []


def test_validation_errors_are_bounded_and_echo_nothing(client: TestClient) -> None:
    secret = "sk-very-secret"
    wrong = {f"{secret} {n}": secret for n in range(50)}
    message = assert_error(post(client, **wrong), 400, "invalid_request", "?")
    assert secret not in message
    entries = message.split(". ")
    assert len(entries) == 10
    assert all(len(entry) <= 200 for entry in entries)
    message = assert_error(post(client, seed=secret), 400, "invalid_request", "seed")
    assert secret not in message


def test_broken_json_unknown_routes_and_methods_have_the_shape(client: TestClient) -> None:
    broken = client.post("/v1/adaptations", content=b"{", headers={"content-type": "application/json"})
    assert "at character 1" in assert_error(broken, 400, "invalid_json", None)
    missing = assert_error(client.get("/v2/nothing"), 404, "not_found", None)
    assert missing == "there is no such path; /docs has all"
    refused = assert_error(client.delete("/v1/adaptations"), 405, "method_not_allowed", None)
    assert refused.startswith("DELETE is not allowed here; use ")
    below = assert_error(client.get("/v1/adaptations?limit=-1"), 400, "invalid_request", "limit")
    assert below == "limit is -1; it must be at least 1"
    assert_error(client.get("/v1/adaptations/adapt_none"), 404, "not_found", "id")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused(client: TestClient, chunked: bool) -> None:
    body = b"x" * ((1 << 20) + 1)
    content: Any = iter([body[:1000], body[1000:]]) if chunked else body
    response = client.post("/v1/adaptations", content=content, headers={"content-type": "application/json"})
    assert_error(response, 413, "request_too_large", None)


def test_request_id_is_kept_when_it_is_harmless(client: TestClient) -> None:
    assert client.get("/health", headers={"x-request-id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    made = client.get("/health", headers={"x-request-id": "no spaces <b>"}).headers["x-request-id"]
    assert made.startswith("req_")


def test_an_internal_error_has_the_shape_and_an_id(settings: Settings) -> None:
    app = create_app(settings)

    def broken() -> None:
        raise ZeroDivisionError("inside")

    app.add_api_route("/broken", broken)
    with TestClient(app, raise_server_exceptions=False) as client:
        message = assert_error(client.get("/broken"), 500, "internal", None)
    assert "inside" not in message


def test_idempotency_key(client: TestClient) -> None:
    headers = {"idempotency-key": "once"}
    first = client.post("/v1/adaptations", json=BODY, headers=headers)
    again = client.post("/v1/adaptations", json=BODY, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/v1/adaptations", json={**BODY, "seed": 1}, headers=headers)
    assert_error(other, 409, "conflict", "Idempotency-Key")
    assert other.headers["x-should-retry"] == "false"


def test_equal_content_is_one_job_unless_forced(client: TestClient) -> None:
    first = post(client)
    assert post(client).json()["id"] == first.json()["id"]
    assert post(client, force=True).json()["id"] != first.json()["id"]


def test_pages(client: TestClient) -> None:
    ids = [post(client, seed=n, metadata={"parity": str(n % 2)}).json()["id"] for n in range(4)]
    page = client.get("/v1/adaptations", params={"limit": 3}).json()
    assert [job["id"] for job in page["data"]] == ids[:0:-1]
    assert (page["object"], page["has_more"], page["first_id"], page["last_id"]) == ("list", True, ids[3], ids[1])
    rest = client.get("/v1/adaptations", params={"after": page["last_id"]}).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    odd = client.get("/v1/adaptations", params={"metadata[parity]": "1"}).json()
    assert [job["id"] for job in odd["data"]] == [ids[3], ids[1]]
    assert client.get("/v1/adaptations", params={"status": "failed"}).json()["data"] == []
    assert_error(client.get("/v1/adaptations", params={"limit": 0}), 400, "invalid_request", "limit")
    assert_error(client.get("/v1/adaptations", params={"status": "odd"}), 400, "invalid_request", "status")


def test_cancel_and_retry_of_a_queued_job(client: TestClient) -> None:
    job_id = post(client).json()["id"]
    assert_error(client.post(f"/v1/adaptations/{job_id}/retry"), 409, "conflict", "status")
    assert client.post(f"/v1/adaptations/{job_id}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/v1/adaptations/{job_id}/cancel").json()["status"] == "cancelled"
    again = client.post(f"/v1/adaptations/{job_id}/retry").json()
    assert (again["status"], again["finished_at"]) == ("queued", None)
    events = client.get(f"/v1/adaptations/{job_id}/events").json()
    assert [event["type"] for event in events["data"]] == ["job_created", "job_cancelled", "job_retried"]
    later = client.get(f"/v1/adaptations/{job_id}/events", params={"after": events["first_id"]}).json()
    assert len(later["data"]) == 2
    assert_error(client.get(f"/v1/adaptations/{job_id}/events", params={"after": "x"}), 400, "invalid_request", "after")


@pytest.mark.parametrize("status", [Status.RUNNING, Status.CANCELLING, Status.SUCCEEDED])
def test_a_job_that_is_not_over_or_is_done_is_not_retried(client: TestClient, store: JobStore, status: Status) -> None:
    job_id = post(client).json()["id"]
    store.jobs.transition(job_id, Status.RUNNING, event="attempt_started", message="x")
    if status is not Status.RUNNING:
        store.jobs.transition(job_id, status, event="x", message="x")
    refused = client.post(f"/v1/adaptations/{job_id}/retry")
    assert_error(refused, 409, "conflict", "status")
    assert f"is {status.value}; only a job that is cancelled or failed" in refused.json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert store.jobs.get(job_id).status is status


def test_jobs_survive_a_restart_of_the_api(settings: Settings) -> None:
    with TestClient(create_app(settings)) as before:
        job = post(before).json()
    with TestClient(create_app(settings)) as after:
        assert after.get(f"/v1/adaptations/{job['id']}").json() == job


def test_logs_and_report(client: TestClient, settings: Settings) -> None:
    job_id = post(client).json()["id"]
    assert client.get(f"/v1/adaptations/{job_id}/logs").json()["lines"] == []
    run = RunDir.of_job(job_id, settings.home)
    run.log_path(Stage.TRAIN).write_text("one\ntwo\nthree\n")
    run.log_path(Stage.GENERATE).write_text("earlier\n")
    answer = client.get(f"/v1/adaptations/{job_id}/logs", params={"tail": 2}).json()
    assert (answer["stage"], answer["lines"]) == ("train", ["two", "three"])
    answer = client.get(f"/v1/adaptations/{job_id}/logs", params={"stage": "generate"}).json()
    assert answer["lines"] == ["earlier"]
    assert_error(client.get(f"/v1/adaptations/{job_id}/report"), 404, "not_found", None)


def test_local_checkpoints(client: TestClient, tmp_path: Path, new_target_dir: Callable[..., Path]) -> None:
    model = tmp_path / "allowed" / "my model"
    model.mkdir()
    assert_error(post(client, model=str(model)), 400, "target_not_found", "model")
    (model / "config.json").write_text("{}")
    (model / "pytorch_model.bin").write_bytes(b"")
    assert "safetensors" in assert_error(post(client, model=str(model)), 400, "target_incompatible", "model")
    (model / "pytorch_model.bin").unlink()
    new_target_dir(model, "llama")
    link = tmp_path / "allowed" / "link"
    link.symlink_to(model)
    job = post(client, model=str(link)).json()
    assert (job["model"], job["served_name"]) == (str(model), "my-model")
    outside = tmp_path / "allowed" / "outside"
    outside.symlink_to("/etc")
    assert_error(post(client, model=str(outside)), 400, "invalid_request", "model")


def test_local_datasets(client: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "allowed" / "prompts.jsonl"
    dataset = {"source": str(path)}
    assert "nothing is" in assert_error(post(client, dataset=dataset), 400, "dataset_invalid", "dataset.source")
    for text, word in (("", "empty"), ("\n\n", "empty"), ('{"prompt": "x"}\n{', "line 2"), ("[1]\n", "line 1")):
        path.write_text(text)
        assert word in assert_error(post(client, dataset=dataset), 400, "dataset_invalid", "dataset.source")
    path.write_text("".join(json.dumps({"prompt": f"hello {n}"}) + "\n" for n in range(32)))
    assert post(client, dataset=dataset).json()["dataset"]["source"] == str(path)


def test_health_says_what_is_away(client: TestClient) -> None:
    post(client)
    body = client.get("/health").json()
    assert (body["status"], body["ray_reachable"], body["serve"]) == ("degraded", False, None)
    assert body["jobs"] == {"queued": 1}


@pytest.mark.parametrize(("scope", "knows_more"), [("jobs:read", True), ("admin", True), ("infer", False)])
def test_health_tells_a_stranger_its_status_alone(client: TestClient, scope: str, knows_more: bool) -> None:
    """A probe has no key; how many jobs there are, and of which version the service is, is not for everybody."""
    post(client)
    store: JobStore = client.app.state.services.store  # type: ignore[attr-defined]
    _, key = store.keys.create("me", "test", [scope], None)
    for header in ({}, {"authorization": "Bearer eda_no_key"}, {"authorization": "Basic x"}):
        answer = client.get("/health", headers=header)
        assert (answer.status_code, answer.json()) == (200, {"status": "degraded"})
    body = client.get("/health", headers={"authorization": f"Bearer {key}"}).json()
    assert ("jobs" in body, "version" in body, "ray_reachable" in body) == (knows_more,) * 3


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.org"])
def test_only_loopback_is_bound_until_there_are_keys(host: str, client: TestClient) -> None:
    store: JobStore = client.app.state.services.store  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="loopback"):
        require_safe_host(store.keys, host)
    assert require_safe_host(store.keys, "127.0.0.1") == "127.0.0.1"
    store.keys.create("me", "test", ["admin"], None)
    assert require_safe_host(store.keys, host) == host


def test_a_second_api_on_one_sqlite_database_is_refused(settings: Settings) -> None:
    with only_one(settings):
        with pytest.raises(InputError, match="PostgreSQL"), only_one(settings):
            pass
        with only_one(settings.model_copy(update={"database_url": "postgresql+psycopg://db/eda"})):
            pass
    with only_one(settings):
        pass
