"""`/v1/exports` over the real application: what is offered and refused, how one is made, and how long it is kept."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exported_packs import COMMAND, FILES, TARGET, finish_export, put_exportable, write_exported
from fastapi.testclient import TestClient
from pack_files import put_pack
from scripted_service import ScriptedService
from waiting import wait_for

from api.app import create_app
from api.packs.exports import KEPT_S, forget_old_exports
from api.settings import Settings
from eda_service.config.job import AdaptConfig, Method, TargetSpec, TrainConfig
from eda_service.config.tasks import ExportConfig
from eda_service.jobstore import JobStore
from eda_service.scopes import Scope
from eda_service.storage.runs.run import RunDir

BODY = {"pack": "math", "to": "vllm"}


@pytest.fixture
def pack(settings: Settings) -> str:
    return put_exportable(settings.home, "math")


@pytest.fixture
def dispatching(settings: Settings, ray: ScriptedService) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"ray_dashboard_url": ray.url}))
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


def queued(client: TestClient, **changes: Any) -> str:
    answer = client.post("/v1/exports", json={**BODY, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_an_export_is_a_job_that_ends_with_an_archive(
    dispatching: TestClient, ray: ScriptedService, settings: Settings, pack: str
) -> None:
    job_id = queued(dispatching, form="dense", num_draft_tokens=4)
    wait_for(lambda: ray.seen("POST", "/api/jobs/"), what="the submission", interval_s=0.02)
    sent = [request.body["entrypoint"] for request in ray.seen("POST", "/api/jobs/")]
    assert sent == [f"python -m jobs.export --job-id {job_id}"]
    before = dispatching.get(f"/v1/exports/{job_id}").json()
    assert (before["pack"], before["to"], before["form"], before["files"]) == (pack, "vllm", "dense", [])
    assert before["serve_command"] is None
    early = dispatching.get(f"/v1/exports/{job_id}/archive")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "conflict")
    run = RunDir(settings.home / "runs" / job_id, attempt=1)
    config = run.task()
    assert isinstance(config, ExportConfig)
    assert (config.target.model, config.num_draft_tokens) == (TARGET, 4)
    write_exported(run, config)
    run.succeed_with(job_id)
    found: dict[str, Any] = {}

    def is_over() -> bool:
        found.update(dispatching.get(f"/v1/exports/{job_id}").json())
        return bool(found["status"] == "succeeded")

    wait_for(is_over, what="the export", interval_s=0.02)
    assert (found["serve_command"], found["needs"]) == (COMMAND, ["MERGED_TARGET is a directory"])
    assert (found["acceptance_length"], found["exported_acceptance_length"]) == (2.5, 2.25)
    assert {each["path"]: each["size_bytes"] for each in found["files"]} == {n: len(c) for n, c in FILES.items()}
    assert found["available_until"] == found["finished_at"] + 24 * 3600
    answer = dispatching.get(f"/v1/exports/{job_id}/archive")
    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["content-disposition"] == 'attachment; filename="math-1-vllm-dense.tar"'
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        read = {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]
    assert read == {f"math-1-vllm-dense/{name}": content for name, content in FILES.items()}
    assert str(settings.home) not in answer.text + str(found)


def test_what_is_offered_is_what_the_command_takes(client: TestClient, settings: Settings, pack: str) -> None:
    """An EAGLE-1 draft whose gate depends on the input; vLLM's own class has no place for its vocabulary."""
    put_exportable(settings.home, "whole", train=TrainConfig(method=Method.FULL_FT))
    listed = client.get(f"/v1/pack-versions/{pack}/exports").json()
    assert listed["pack"] == pack
    offers = {(each["to"], each["form"]): each for each in listed["data"]}
    assert len(offers) == 6
    assert {key for key, each in offers.items() if each["needs_answers"]} == {
        ("vllm", "dense"), ("sglang", "dense"), ("hf", "dense")
    }  # fmt: skip
    assert {each["refused"] for each in offers.values()} == {None}
    assert all(each["dialects"] == [] for each in offers.values())
    whole = client.get("/v1/pack-versions/whole/exports").json()["data"]
    assert {(each["to"], each["form"]) for each in whole if each["needs_answers"]} == {("vllm", "dense")}


def test_what_cannot_be_exported_is_refused_before_a_job_is_made(
    client: TestClient, settings: Settings, store: JobStore, pack: str
) -> None:
    put_exportable(settings.home, "eagle3", base_draft="smollm2-135m-eagle3@1")
    put_exportable(settings.home, "elsewhere", model="/etc")
    put_pack(settings.home, "damaged", 2.0, base_draft="smollm2-135m@2")
    put_pack(settings.home, "homeless", 2.0, base_draft="gone@1")

    def refused(**changes: Any) -> tuple[int, str, str | None]:
        answer = client.post("/v1/exports", json={**BODY, **changes})
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["param"]

    offers = client.get("/v1/pack-versions/eagle3/exports").json()["data"]
    (plugin,) = (each for each in offers if (each["to"], each["form"]) == ("sglang", "plugin"))
    assert "there is no plugin for SGLang's EAGLE-3; export the dense form" in plugin["refused"]
    answer = client.post("/v1/exports", json={"pack": "eagle3", "to": "sglang", "form": "plugin"})
    assert answer.json()["error"]["message"] == plugin["refused"]
    assert refused(pack="eagle3", to="sglang") == (400, "target_incompatible", "to")
    assert refused(dialect="modelopt") == (400, "invalid_request", "dialect")
    assert refused(pack="eagle3", form="dense", dialect="speculators2") == (400, "invalid_request", "dialect")
    assert refused(pack="none") == (404, "not_found", "pack")
    assert refused(pack="math@9")[:2] == (404, "not_found")
    assert refused(pack="elsewhere")[:2] == (400, "invalid_request")
    assert refused(pack="damaged")[1] == "artifact_corrupt"
    assert str(settings.home) not in client.get("/v1/pack-versions/damaged/exports").text
    assert refused(pack="homeless")[1] == "base_draft_missing"
    assert refused(to="ollama")[:2] == (400, "invalid_request")
    assert refused(num_prompts=7) == (400, "invalid_request", "num_prompts")
    assert refused(out="/tmp/out") == (400, "invalid_request", "out")
    assert store.jobs.page()[0] == []


def test_a_pack_whose_files_cannot_be_read_is_refused_in_every_form(client: TestClient, settings: Settings) -> None:
    """The files that `put_pack` writes by itself are no pack's."""
    reference = put_pack(settings.home, "broken", 2.0)
    offers = client.get(f"/v1/pack-versions/{reference}/exports")
    assert offers.status_code == 200
    reasons = {each["refused"] for each in offers.json()["data"]}
    assert len(offers.json()["data"]) == 6
    assert len(reasons) == 1
    reason = reasons.pop()
    assert reason.startswith(f"files of {reference} or of its base draft small@1 cannot be read")
    assert str(settings.home) not in reason
    error = client.post("/v1/exports", json={"pack": reference, "to": "vllm"}).json()["error"]
    assert (error["code"], error["message"]) == ("artifact_corrupt", reason)
    assert client.get("/ui/packs/broken/export?version=1", headers={"accept": "text/html"}).status_code == 200


def test_a_dialect_that_the_engine_reads_is_taken(client: TestClient, settings: Settings) -> None:
    put_exportable(settings.home, "eagle3", base_draft="smollm2-135m-eagle3@1")
    offers = client.get("/v1/pack-versions/eagle3/exports").json()["data"]
    (dense,) = (each for each in offers if (each["to"], each["form"]) == ("vllm", "dense"))
    assert dense["dialects"] == ["eagle3", "specforge", "angelslim", "speculators", "modelopt"]
    job_id = queued(client, pack="eagle3", form="dense", dialect="speculators")
    assert client.get(f"/v1/exports/{job_id}").json()["config"]["dialect"] == "speculators"


def test_its_files_go_after_a_day_and_its_numbers_stay(
    client: TestClient, settings: Settings, store: JobStore, pack: str
) -> None:
    job = finish_export(store, settings.home, store.jobs.get(queued(client)))
    files = settings.home / "runs" / job.id / "export" / "files"
    assert job.finished_at is not None
    forget_old_exports(store, settings.home, job.finished_at + KEPT_S - 1)
    assert {path.name for path in files.iterdir()} == set(FILES)
    forget_old_exports(store, settings.home, job.finished_at + KEPT_S)
    assert list(files.iterdir()) == []
    gone = client.get(f"/v1/exports/{job.id}/archive")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
    assert f"export {pack} again" in gone.json()["error"]["message"]
    body = client.get(f"/v1/exports/{job.id}").json()
    assert (body["files"], body["available_until"], body["serve_command"]) == ([], None, COMMAND)


def test_an_export_that_is_being_made_keeps_its_pack(client: TestClient, store: JobStore, pack: str) -> None:
    job_id = queued(client)
    refused = client.delete(f"/v1/pack-versions/{pack}")
    assert (refused.status_code, job_id in refused.json()["error"]["message"]) == (409, True)
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.delete(f"/v1/pack-versions/{pack}").status_code == 200


def test_other_jobs_are_no_exports(client: TestClient) -> None:
    made = client.post("/v1/measurements", json={"model": "org/model", "draft": "small@1"}).json()["id"]
    assert client.get(f"/v1/exports/{made}").status_code == 404
    assert client.get(f"/v1/exports/{made}/archive").status_code == 404


def test_another_owners_exports_and_packs_are_not_there(
    client: TestClient, settings: Settings, store: JobStore
) -> None:
    ann, bob = (
        {"authorization": f"Bearer {store.keys.create(name, 'test', [Scope.JOBS_READ, Scope.JOBS_WRITE], None)[1]}"}
        for name in ("ann", "bob")
    )
    job = store.jobs.create(AdaptConfig(target=TargetSpec(model=TARGET)), owner="ann", labels={}, force=True)[0]
    put_exportable(settings.home, "hers", job_id=job.id)
    made = client.post("/v1/exports", json={**BODY, "pack": "hers"}, headers=ann)
    assert made.status_code == 202, made.text
    export = finish_export(store, settings.home, store.jobs.get(made.json()["id"]))
    for path in (f"/v1/exports/{export.id}", f"/v1/exports/{export.id}/archive", "/v1/pack-versions/hers/exports"):
        nobodys = client.get(path.replace(export.id, "export_none").replace("hers", "none"), headers=bob)
        theirs = client.get(path, headers=bob)
        assert (theirs.status_code, nobodys.status_code) == (404, 404)
        assert theirs.text.replace(export.id, "X").replace("hers", "Y") == nobodys.text.replace(
            "export_none", "X"
        ).replace("none", "Y")
        assert client.get(path, headers=ann).status_code == 200
    assert client.post("/v1/exports", json={**BODY, "pack": "hers"}, headers=bob).status_code == 404


def test_the_page_offers_makes_and_hands_out(
    client: TestClient, settings: Settings, store: JobStore, pack: str, tmp_path: Path
) -> None:
    put_exportable(settings.home, "eagle3", base_draft="smollm2-135m-eagle3@1")
    page = client.get("/ui/packs/eagle3/export").text
    assert "Not possible: this draft of kind eagle3 cannot be exported for sglang" in page
    assert 'name="dialect"' in page
    page = client.get("/ui/packs/math/export?version=1").text
    assert ("Not possible" in page, 'name="dialect"' in page) == (False, False)
    token = page.partition('name="token" value="')[2].partition('"')[0]
    form = {"token": token, "version": "1", "choice": "vllm-dense", "num_draft_tokens": "5"}
    empty = client.post("/ui/packs/math/export", data={**form, "choice": ""})
    assert (empty.status_code, "choose an engine and a form" in empty.text) == (400, True)
    sent = client.post("/ui/packs/math/export", data=form, follow_redirects=False)
    assert sent.headers["location"] == "/ui/packs/math/export?version=1#made"
    (job,) = store.jobs.page()[0]
    assert (job.kind, job.task().num_draft_tokens) == ("export", 5)  # type: ignore[union-attr]
    finish_export(store, settings.home, job)
    page = client.get("/ui/packs/math/export").text
    assert f'href="/ui/exports/{job.id}.tar"' in page
    assert "vllm serve MERGED_TARGET" in page
    assert "Acceptance length 2.50 as the pack is, 2.25 in this form" in page
    assert client.get(f"/ui/exports/{job.id}.tar").content == client.get(f"/v1/exports/{job.id}/archive").content
    assert str(tmp_path) not in page
    assert time.time() - store.jobs.get(job.id).created_at < 600
