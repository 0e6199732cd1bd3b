"""A draft that is removed in the moment in which a job names it: one of the two is refused, or the job has failed with
a code.

The queue and the registry are real; what comes in between is put there at the moments at which the two look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from draft_files import put_draft
from fastapi.testclient import TestClient
from pack_files import put_pack

from api.settings import Settings
from eda_service.jobstore import JobStore, Status
from eda_service.jobstore.jobs.queue import JobQueue
from eda_service.storage.published import pack_bases, registry

ADAPT = ("/v1/adaptations", {"model": "org/model", "base_draft": "small@1", "force": True})
MEASURE = ("/v1/measurements", {"model": "org/model", "draft": "small@1", "force": True})
both_kinds = pytest.mark.parametrize(("path", "body"), [ADAPT, MEASURE], ids=["adapt", "measure"])


def once(what: Callable[[], object]) -> Callable[[], None]:
    """Do something the first time."""
    todo = [what]

    def call() -> None:
        if todo:
            todo.pop()()

    return call


def is_there(home: Path) -> bool:
    return registry.has_draft("small", 1, home) and (home / "drafts" / "small" / "1" / "draft.safetensors").exists()


@both_kinds
def test_a_job_that_comes_after_the_first_look_keeps_its_draft(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    answers: list[int] = []
    post = once(lambda: answers.append(client.post(path, json=body).status_code))
    delete_draft = registry.delete_draft

    def queued_before(*arguments: Any, **options: Any) -> bool:
        post()  # nobody used the draft a moment ago
        return delete_draft(*arguments, **options)

    monkeypatch.setattr(registry, "delete_draft", queued_before)
    refused = client.delete("/v1/drafts/small@1")
    assert answers in ([201], [202])
    assert refused.status_code == 409
    assert "job " in refused.json()["error"]["message"]
    assert is_there(settings.home)
    assert client.get("/v1/drafts/small@1").status_code == 200


@both_kinds
def test_a_job_that_is_queued_after_the_last_look_is_refused_and_has_failed(
    client: TestClient,
    store: JobStore,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
) -> None:
    create = JobQueue.create
    removed: list[int] = []
    remove = once(lambda: removed.append(client.delete("/v1/drafts/small@1").status_code))

    def removed_before(self: JobQueue, *arguments: Any, **options: Any) -> Any:
        remove()  # the request has found the draft already
        return create(self, *arguments, **options)

    monkeypatch.setattr(JobQueue, "create", removed_before)
    answer = client.post(path, json=body)
    assert removed == [200]
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "base_draft_missing")
    assert "has been removed" in answer.json()["error"]["message"]
    (job,) = store.jobs.page()[0]
    assert (job.status, job.error and job.error["code"]) == (Status.FAILED, "base_draft_missing")
    assert not is_there(settings.home)


def test_a_job_that_runs_already_says_itself_that_its_draft_is_gone(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = JobQueue.create

    def claimed_at_once(self: JobQueue, *arguments: Any, **options: Any) -> Any:
        made = create(self, *arguments, **options)
        registry.delete_draft("small", 1, settings.home)
        self.transition(made[0].id, Status.RUNNING, event="attempt_started", message="x")
        return made

    monkeypatch.setattr(JobQueue, "create", claimed_at_once)
    answer = client.post(ADAPT[0], json=ADAPT[1])
    assert (answer.status_code, answer.json()["status"]) == (201, "running")  # stage validate has the code


def test_a_job_is_not_retried_without_its_draft(client: TestClient, store: JobStore) -> None:
    job_id = client.post(ADAPT[0], json=ADAPT[1]).json()["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.delete("/v1/drafts/small@1").status_code == 200
    answer = client.post(f"/v1/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "base_draft_missing")
    assert store.jobs.get(job_id).status is Status.CANCELLED


def test_an_import_that_has_not_ended_keeps_what_it_registered(
    client: TestClient, settings: Settings, tmp_path: Path
) -> None:
    source = tmp_path / "allowed" / "brought"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(b"x")
    body = {"source": str(source), "model": str(source), "name": "ours", "force": True}
    job_id = client.post("/v1/drafts", json=body).json()["id"]
    put_draft(settings.home, "ours", registry.reserve_draft("ours", job_id, settings.home))
    refused = client.delete("/v1/drafts/ours@1")
    assert (refused.status_code, f"job {job_id}" in refused.json()["error"]["message"]) == (409, True)


def test_what_cannot_be_asked_leaves_the_draft(client: TestClient, settings: Settings) -> None:
    def ask() -> bool:
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        registry.delete_draft("small", 1, settings.home, is_used=ask)
    assert is_there(settings.home)


def test_many_of_both_at_once_leave_no_job_without_its_draft(
    client: TestClient, store: JobStore, settings: Settings
) -> None:
    """Whatever the order, a job that is still queued has its draft."""
    seen: set[tuple[int, int]] = set()
    for number in range(1, 13):
        if not registry.has_draft("many", number, settings.home):
            put_draft(settings.home, "many", number)
        body = {**ADAPT[1], "base_draft": f"many@{number}"}
        codes: dict[str, int] = {}
        start = threading.Barrier(2)

        def post(body: dict[str, Any] = body, codes: dict[str, int] = codes, start: threading.Barrier = start) -> None:
            start.wait()
            codes["post"] = client.post("/v1/adaptations", json=body).status_code

        thread = threading.Thread(target=post)
        thread.start()
        start.wait()
        codes["delete"] = client.delete(f"/v1/drafts/many@{number}").status_code
        thread.join()
        seen.add((codes["post"], codes["delete"]))
        there = registry.has_draft("many", number, settings.home)
        assert there == (codes["delete"] == 409)
        queued = [job for job in store.jobs.live() if job.config["base_draft"] == f"many@{number}"]
        assert bool(queued) == (codes["post"] == 201)
        assert not queued or there
    assert seen <= {(201, 409), (400, 200), (400, 409)}


def test_each_pack_is_read_once_to_say_which_draft_it_was_made_over(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    find = registry.find_pack_manifest

    def counted(reference: Any, home: Path | None = None) -> Any:
        read.append(str(reference))
        return find(reference, home)

    monkeypatch.setattr(pack_bases.registry, "find_pack_manifest", counted)
    made = [put_pack(settings.home, name, 2.0) for name in ("a", "a", "b")]
    put_draft(settings.home, "other", 1)
    over_other = put_pack(settings.home, "c", 2.0, base_draft="other@1")
    for _ in range(3):
        assert client.get("/v1/drafts/small@1").json()["packs"] == made
        assert client.get("/v1/drafts/other@1").json()["packs"] == [over_other]
        assert client.delete("/v1/drafts/small@1").status_code == 409
    assert sorted(read) == sorted([*made, over_other])
    newest = put_pack(settings.home, "b", 2.0)
    assert client.get("/v1/drafts/small@1").json()["packs"] == [*made, newest]
    assert read.count(newest) == 1
