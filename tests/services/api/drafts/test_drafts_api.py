"""`/v1/drafts` and `/v1/jobs` over the real application: importing is a job; who sees and removes what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from draft_files import put_draft
from fastapi.testclient import TestClient
from pack_files import put_pack
from scripted_service import ScriptedService
from waiting import wait_for

from api.app import create_app
from api.settings import Settings
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.tasks import ImportConfig, JobKind
from eda_service.draft_check import DraftCheck, Reading
from eda_service.errors import DatasetInvalidError
from eda_service.jobstore import JobStore, Status
from eda_service.records import DraftManifest, Stage
from eda_service.storage.files import write_json
from eda_service.storage.published import registry
from eda_service.storage.runs.run import RunDir

ENDED = {Status.SUCCEEDED.value, Status.FAILED.value}


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    return tmp_path / "allowed"


@pytest.fixture
def body(allowed: Path) -> dict[str, Any]:
    """A request whose files are there: a draft as the oldest are published, and a base target's config alone."""
    for name, file in (("draft", "pytorch_model.bin"), ("base", "tokenizer.json")):
        (allowed / name).mkdir()
        (allowed / name / "config.json").write_text("{}")
        (allowed / name / file).write_bytes(b"x")
    return {"source": str(allowed / "draft"), "model": str(allowed / "base")}


@pytest.fixture
def dispatching(settings: Settings, ray: ScriptedService) -> Iterator[TestClient]:
    """The application over a dashboard that takes every job."""
    app = create_app(settings.model_copy(update={"ray_dashboard_url": ray.url}))
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


def refusal(client: TestClient, method: str, path: str, **more: Any) -> tuple[int, str | None, str | None]:
    answer = client.request(method, path, **more)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def imported(store: JobStore, home: Path, name: str, owner: str = "local", **changes: Any) -> str:
    """A draft that a job of an owner has imported; its manifest says what `changes` say."""
    config = ImportConfig(target=TargetSpec(model="org/base"), source="org/draft", name=name)
    job, _ = store.jobs.create(config, owner=owner, force=True)
    version = registry.reserve_draft(name, job.id, home)
    directory = put_draft(home, name, version)
    manifest = registry.find_draft_manifest(f"{name}@{version}", home)
    known = {"source": "org/draft@abc", "dialect": "eagle3", "kind": "eagle3", "config": config.model_dump(mode="json")}
    write_json(directory / "manifest.json", manifest.model_copy(update=known | changes).model_dump(mode="json"))
    store.jobs.transition(job.id, Status.RUNNING, event="attempt_started", message="x")
    store.jobs.transition(job.id, Status.SUCCEEDED, event="job_succeeded", message="x", result=f"{name}@{version}")
    return f"{name}@{version}"


def until_ended(client: TestClient, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def is_over() -> bool:
        found.update(client.get(f"/v1/jobs/{job_id}").json())
        return found["status"] in ENDED

    wait_for(is_over, what="the job", interval_s=0.02)
    return found


def test_an_import_goes_through_the_queue_to_a_draft(
    dispatching: TestClient, ray: ScriptedService, settings: Settings, body: dict[str, Any]
) -> None:
    answer = dispatching.post("/v1/drafts", json={**body, "overrides": {"rope_theta": "5e5"}, "metadata": {"a": "b"}})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["id"].startswith("import_")
    assert (job["kind"], job["object"], job["model"]) == ("import_draft", "job", body["model"])
    assert job["config"]["overrides"] == {"rope_theta": "5e5"}
    again = dispatching.post("/v1/drafts", json={**body, "overrides": {"rope_theta": "5e5"}})
    assert (again.status_code, again.json()["id"]) == (200, job["id"])  # an equal live one
    run = RunDir(settings.home / "runs" / job["id"], attempt=1)
    wait_for(lambda: ray.seen("POST", "/api/jobs/"), what="the submission", interval_s=0.02)
    sent = [request.body for request in ray.seen("POST", "/api/jobs/")]
    assert [each["entrypoint"] for each in sent] == [f"python -m jobs.import_draft --job-id {job['id']}"]
    assert run.task() == ImportConfig.model_validate(job["config"])
    run.event("assumed", "layers = [2, 16, 29]: nothing says it", stage=Stage.READ, level="warning")
    run.progress(Stage.CHECK, step=1, total_steps=2)
    version = registry.reserve_draft("draft", job["id"], settings.home)
    put_draft(settings.home, "draft", version)
    run.succeed_with(f"draft@{version}")
    ended = until_ended(dispatching, job["id"])
    assert (ended["status"], ended["result"], ended["error"]) == ("succeeded", "draft@1", None)
    events = dispatching.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert [each["type"] for each in events] == ["job_created", "attempt_started", "assumed", "job_succeeded"]
    assert dispatching.get("/v1/drafts/draft@1").json()["job_id"] == job["id"]
    assert dispatching.get("/v1/deployments").json()["data"] == []  # nothing is served by it


def test_an_import_that_fails_says_why_and_is_tried_again_by_request(
    dispatching: TestClient, settings: Settings, body: dict[str, Any]
) -> None:
    job_id = dispatching.post("/v1/drafts", json=body).json()["id"]
    run = RunDir(settings.home / "runs" / job_id, attempt=1)
    wait_for(lambda: run.is_job, what="the submission", interval_s=0.02)
    run.fail(DatasetInvalidError("no", param="source"))
    ended = until_ended(dispatching, job_id)
    assert (ended["status"], ended["error"]["code"], ended["result"]) == ("failed", "dataset_invalid", None)
    again = dispatching.post(f"/v1/jobs/{job_id}/retry")
    assert again.json()["status"] in {"queued", "running"}
    dispatching.post(f"/v1/jobs/{job_id}/cancel")


def test_a_result_of_another_kind_of_job_ends_it_as_corrupt(
    dispatching: TestClient, settings: Settings, body: dict[str, Any]
) -> None:
    job_id = dispatching.post("/v1/drafts", json=body).json()["id"]
    run = RunDir(settings.home / "runs" / job_id, attempt=1)
    wait_for(lambda: run.is_job, what="the submission", interval_s=0.02)
    run.succeed("pack@1")
    assert until_ended(dispatching, job_id)["error"]["code"] == "artifact_corrupt"


def test_adaptations_and_other_jobs_keep_to_their_own_resource(
    client: TestClient, store: JobStore, body: dict[str, Any]
) -> None:
    adaptation = client.post("/v1/adaptations", json={"model": "org/model", "base_draft": "small@1"}).json()["id"]
    job = client.post("/v1/drafts", json=body).json()["id"]
    assert [each["id"] for each in client.get("/v1/adaptations").json()["data"]] == [adaptation]
    assert [each["id"] for each in client.get("/v1/fine_tuning/jobs").json()["data"]] == [adaptation]
    assert [each["id"] for each in client.get("/v1/jobs").json()["data"]] == [job, adaptation]
    assert [each["kind"] for each in client.get("/v1/jobs").json()["data"]] == ["import_draft", "adapt"]
    assert [each["id"] for each in client.get("/v1/jobs?kind=import_draft").json()["data"]] == [job]
    for path in ("", "/events", "/logs", "/report"):
        assert refusal(client, "GET", f"/v1/adaptations/{job}{path}")[:2] == (404, "not_found"), path
    for path in ("cancel", "retry"):
        assert refusal(client, "POST", f"/v1/adaptations/{job}/{path}")[0] == 404
    assert refusal(client, "POST", f"/v1/adaptations/{job}", json={"priority": 1})[0] == 404
    assert refusal(client, "GET", f"/v1/measurements/{job}")[0] == 404
    assert store.jobs.get(job).status is Status.QUEUED
    assert client.post(f"/v1/jobs/{job}", json={"priority": 90}).json()["priority"] == 90
    assert client.post(f"/v1/jobs/{job}/cancel").json()["status"] == "cancelled"
    assert client.get(f"/v1/jobs/{adaptation}").json()["kind"] == "adapt"
    assert client.get(f"/v1/jobs/{job}/logs").json()["lines"] == []


def test_a_repeated_key_is_answered_with_its_job(client: TestClient, body: dict[str, Any]) -> None:
    headers = {"idempotency-key": "once"}
    first = client.post("/v1/drafts", json=body, headers=headers)
    assert client.post("/v1/drafts", json=body, headers=headers).json()["id"] == first.json()["id"]
    other = client.post("/v1/drafts", json={**body, "name": "other"}, headers=headers)
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        pytest.param({"source": "/etc"}, (400, "invalid_request", "source"), id="outside of the roots"),
        pytest.param({"model": "/etc"}, (400, "invalid_request", "model"), id="target outside of the roots"),
        pytest.param({"source": "../draft"}, (400, "draft_source_not_found", "source"), id="no path and no id"),
        pytest.param({"source": "{allowed}/base"}, (400, "draft_source_not_found", "source"), id="no weights"),
        pytest.param({"source": "{allowed}/nothing"}, (400, "draft_source_not_found", "source"), id="nothing there"),
        pytest.param({"model": "{allowed}/draft"}, (400, "target_incompatible", "model"), id="a pickle as target"),
        pytest.param({"source_revision": "a"}, (400, "invalid_request", "source_revision"), id="revision of a path"),
        pytest.param({"source_revision": "a;b"}, (400, "invalid_request", "source_revision"), id="odd revision"),
        pytest.param({"model": "nameless"}, (400, "target_not_found", "model"), id="no owner"),
        pytest.param({"name": "../x"}, (400, "invalid_request", "name"), id="odd name"),
        pytest.param({"overrides": {"X": "1"}}, (400, "invalid_request", "overrides"), id="odd field"),
        pytest.param(
            {"stage_deadlines": {"train": 5}}, (400, "invalid_request", "stage_deadlines"), id="no such stage"
        ),
        pytest.param({"entrypoint": "sh"}, (400, "invalid_request", "entrypoint"), id="unknown field"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_at_once(
    client: TestClient, body: dict[str, Any], allowed: Path, changes: dict[str, Any], wanted: tuple[int, str, str]
) -> None:
    filled = {key: value.format(allowed=allowed) if isinstance(value, str) else value for key, value in changes.items()}
    assert refusal(client, "POST", "/v1/drafts", json=body | filled) == wanted
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_link_out_of_the_roots_is_no_source(client: TestClient, body: dict[str, Any], allowed: Path) -> None:
    (allowed / "draft" / "more.safetensors").symlink_to("/etc/hostname")
    assert refusal(client, "POST", "/v1/drafts", json=body) == (400, "invalid_request", "source")


def test_a_hub_that_cannot_be_asked_is_said_and_can_be_overruled(settings: Settings, body: dict[str, Any]) -> None:
    asking = settings.model_copy(update={"hub_at_submit": "ask"})
    with TestClient(create_app(asking), raise_server_exceptions=False) as client:
        asked = body | {"source": "org/draft"}
        assert refusal(client, "POST", "/v1/drafts", json=asked) == (400, "draft_source_not_found", "source")
        assert client.post("/v1/drafts", json={**asked, "force": True}).status_code == 202
        assert refusal(client, "POST", "/v1/drafts", json=body | {"model": "org/base"})[2] == "model"


def test_drafts_are_listed_page_by_page_with_what_their_check_measured(
    client: TestClient, store: JobStore, settings: Settings
) -> None:
    declared = Reading(agreement=(0.1, 0.05), acceptance_length=1.12)
    other = Reading(overrides={"norm_before_residual": "true"}, agreement=(0.5, 0.4), acceptance_length=2.05)
    check = DraftCheck(num_prompts=20, num_positions=500, declared=declared, others=(other,))
    name = imported(store, settings.home, "eagle", check=check, assumed=("a = 1: b",), overrides={"c": "2"})
    put_pack(settings.home, "over", 2.0, base_draft=name)
    whole = client.get("/v1/drafts").json()
    ids = [each["id"] for each in whole["data"]]
    assert ids == ["eagle@1", "small@1", "smollm2-135m@2", "smollm2-135m@3", "smollm2-135m-eagle3@1"]
    paged, after = [], None
    while True:
        page = client.get("/v1/drafts", params={"limit": 3, **({} if after is None else {"after": after})}).json()
        paged += [each["id"] for each in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert paged == ids
    shown = {each["id"]: each for each in whole["data"]}
    eagle = shown["eagle@1"]
    assert (eagle["kind"], eagle["dialect"], eagle["source"], eagle["model"]) == (
        "eagle3", "eagle3", "org/draft@abc", "org/base",
    )  # fmt: skip
    assert (eagle["acceptance_length"], eagle["best_acceptance_length"]) == (1.12, 2.05)
    assert eagle["best_reading"] == {"norm_before_residual": "true"}
    assert (shown["smollm2-135m@3"]["shipped"], shown["small@1"]["shipped"]) == (True, False)
    assert (shown["small@1"]["kind"], shown["small@1"]["job_id"]) == ("eagle1", None)
    detail = client.get("/v1/drafts/eagle").json()  # without a version the newest
    assert (detail["assumed"], detail["overrides"], detail["packs"]) == (["a = 1: b"], {"c": "2"}, ["over@1"])
    assert detail["check"] == check.model_dump(mode="json")
    assert refusal(client, "GET", "/v1/drafts/eagle@7")[:2] == (404, "not_found")
    assert refusal(client, "GET", "/v1/drafts/@@")[0] == 404
    assert refusal(client, "GET", "/v1/drafts?after=no/name")[0] == 404


def test_a_draft_whose_manifest_cannot_be_read_holds_up_no_list(client: TestClient, settings: Settings) -> None:
    (settings.home / "drafts" / "small" / "1" / "manifest.json").write_text("{")
    shown = {each["id"]: each for each in client.get("/v1/drafts").json()["data"]}
    assert (shown["small@1"]["kind"], shown["small@1"]["size_bytes"]) == (None, None)
    assert client.get("/v1/drafts/small@1").status_code == 200
    assert client.get("/ui/drafts", headers={"accept": "text/html"}).status_code == 200


def used_by_a_pack(store: JobStore, home: Path, draft: str) -> str:
    return f"pack {put_pack(home, 'over', 2.0, base_draft=draft)}"


def used_by_a_job(store: JobStore, home: Path, draft: str) -> str:
    config = AdaptConfig(target=TargetSpec(model="org/model"), base_draft=draft)
    return f"job {store.jobs.create(config)[0].id}"


def used_by_a_measurement(store: JobStore, home: Path, draft: str) -> str:
    from eda_service.config.tasks import MeasureConfig

    return f"job {store.jobs.create(MeasureConfig(target=TargetSpec(model='org/model'), draft=draft))[0].id}"


@pytest.mark.parametrize("use", [used_by_a_pack, used_by_a_job, used_by_a_measurement])
def test_a_draft_that_is_used_is_not_removed_and_it_is_said_by_what(
    client: TestClient, store: JobStore, settings: Settings, use: Callable[[JobStore, Path, str], str]
) -> None:
    user = use(store, settings.home, "small@1")
    answer = client.delete("/v1/drafts/small@1")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert user in answer.json()["error"]["message"]
    assert client.get("/v1/drafts/small@1").status_code == 200


def test_a_deployment_keeps_its_draft_until_it_is_gone(client: TestClient, settings: Settings) -> None:
    deployed = {"name": "serving", "model": "org/model", "base_draft": "small@1"}
    assert client.post("/v1/deployments", json=deployed).status_code == 201
    answer = client.delete("/v1/drafts/small@1")
    assert answer.status_code == 409
    assert "deployment serving" in answer.json()["error"]["message"]
    client.delete("/v1/deployments/serving")
    assert client.delete("/v1/drafts/small").json() == {"id": "small@1", "object": "draft", "deleted": True}
    assert refusal(client, "GET", "/v1/drafts/small@1")[0] == 404
    assert not (settings.home / "drafts" / "small" / "1").exists()
    assert refusal(client, "DELETE", "/v1/drafts/smollm2-135m@3")[:2] == (409, "conflict")


def test_an_imported_draft_is_its_owners(client: TestClient, store: JobStore, settings: Settings) -> None:
    keys = {
        name: {"authorization": f"Bearer {store.keys.create(name, 'k', scopes)[1]}"}
        for name, scopes in {
            "ann": ("jobs:read", "jobs:write"), "bob": ("jobs:read", "jobs:write"), "root": ("admin",),
            "reader": ("jobs:read",), "asker": ("infer",),
        }.items()
    }  # fmt: skip
    imported(store, settings.home, "annes", "ann")

    def seen(name: str) -> set[str]:
        return {each["name"] for each in client.get("/v1/drafts", headers=keys[name]).json()["data"]}

    assert seen("ann") == seen("root") == {"annes", "small", "smollm2-135m", "smollm2-135m-eagle3"}
    assert seen("bob") == seen("reader") == seen("asker") == {"small", "smollm2-135m", "smollm2-135m-eagle3"}
    for method in ("GET", "DELETE"):
        assert refusal(client, method, "/v1/drafts/annes@1", headers=keys["bob"])[0] == 404
    body = {"model": "org/model", "base_draft": "annes@1"}
    for path in ("/v1/adaptations", "/v1/adaptations/estimate", "/v1/deployments"):
        answer = client.post(path, json=body, headers=keys["bob"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "base_draft_missing"), path
        assert "annes" not in answer.json()["error"]["message"].replace("'annes@1'", "")
    measured = {"model": "org/model", "draft": "annes@1"}
    assert refusal(client, "POST", "/v1/measurements", json=measured, headers=keys["bob"])[1:] == (
        "base_draft_missing", "draft",
    )  # fmt: skip
    assert client.post("/v1/adaptations", json=body, headers=keys["ann"]).status_code == 201
    assert refusal(client, "DELETE", "/v1/drafts/small@1", headers=keys["bob"])[:2] == (403, "insufficient_scope")
    assert refusal(client, "DELETE", "/v1/drafts/annes@1", headers=keys["reader"])[0] == 403
    assert refusal(client, "POST", "/v1/drafts", json={"source": "a", "model": "b"}, headers=keys["reader"])[0] == 403
    assert refusal(client, "GET", "/v1/drafts")[0] == 401
    assert client.delete("/v1/drafts/small@1", headers=keys["root"]).status_code == 200


def test_jobs_of_an_older_version_are_adaptations(store: JobStore) -> None:
    """What the migration makes of a row, and what a run directory without a kind is read as."""
    job, _ = store.jobs.create(AdaptConfig(target=TargetSpec(model="org/model")))
    assert store.jobs.get(job.id).kind is JobKind.ADAPT
    assert [found.id for found in store.jobs.page(kind=JobKind.ADAPT)[0]] == [job.id]


def test_an_import_whose_row_was_lost_is_found_again(
    settings: Settings, ray: ScriptedService, body: dict[str, Any]
) -> None:
    """By its run directory: with its kind, its owner and its result."""
    run = RunDir(settings.home / "runs" / "import_lost", attempt=1)
    config = ImportConfig(target=TargetSpec(model=body["model"]), source=body["source"])
    run.create(config, origin="api", created_at=int(time.time()))
    run.succeed_with("draft@1")
    app = create_app(settings.model_copy(update={"ray_dashboard_url": ray.url}))
    with TestClient(app) as client:
        ended = until_ended_if_there(client, "import_lost")
    assert (ended["kind"], ended["status"], ended["result"]) == ("import_draft", "succeeded", "draft@1")


def until_ended_if_there(client: TestClient, job_id: str) -> dict[str, Any]:
    wait_for(lambda: client.get(f"/v1/jobs/{job_id}").status_code == 200, what="the adoption", interval_s=0.02)
    return until_ended(client, job_id)


def test_the_pages_show_drafts_their_check_and_imports_under_way(
    client: TestClient, store: JobStore, settings: Settings, body: dict[str, Any]
) -> None:
    hostile = "<script>alert(1)</script>"
    declared = Reading(agreement=(0.123, 0.05), acceptance_length=1.12)
    other = Reading(overrides={"layers": "[1]"}, agreement=(0.5,), acceptance_length=2.05)
    check = DraftCheck(num_prompts=20, num_positions=500, declared=declared, others=(other,))
    imported(store, settings.home, "eagle", check=check, assumed=(hostile,), overrides={"c": hostile})
    waiting = client.post("/v1/drafts", json=body).json()["id"]
    html = {"accept": "text/html"}
    page = client.get("/ui/drafts", headers=html)
    assert page.status_code == 200
    for word in ("eagle@1", "smollm2-135m@3", "1.12", "2.05", "differs", waiting, "org/draft@abc"):
        assert word in page.text, word
    page = client.get("/ui/drafts/eagle@1", headers=html)
    assert page.status_code == 200
    for word in ("12.3%", "layers=[1]", "Position 2", "import it again with", "&lt;script&gt;"):
        assert word in page.text, word
    assert hostile not in page.text
    assert "No packs yet" in page.text
    shipped = client.get("/ui/drafts/smollm2-135m@3", headers=html)
    assert "shipped with the package" in shipped.text
    assert client.get("/ui/drafts/none@1", headers=html).status_code == 404


def test_a_manifest_of_before_imports_is_read() -> None:
    """The shipped drafts' own; none of the new fields stands in it."""
    text = (registry.shipped_drafts() / "smollm2-135m" / "3" / "manifest.json").read_text()
    manifest = DraftManifest.model_validate_json(text)
    assert "dialect" not in text
    assert (manifest.kind, manifest.dialect, manifest.check, manifest.assumed) == ("eagle1", None, None, ())
