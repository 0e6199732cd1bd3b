"""Jobs of every kind in one queue: what is promised of one is promised of all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import create_engine, text
from store_helpers import Clock, config

from eda_service.config.job import TargetSpec
from eda_service.config.tasks import ID_PREFIXES, ImportConfig, JobKind, MeasureConfig, Task, kind_of
from eda_service.errors import NotFoundError
from eda_service.jobstore import Job, JobStore, Status

TARGET = TargetSpec(model="org/base")
IMPORT = ImportConfig(target=TARGET, source="org/draft")
TASKS: tuple[Task, ...] = (config(), IMPORT, MeasureConfig(target=TARGET, draft="small@1"))


def end(store: JobStore, job: Job, result: str) -> Job:
    return store.jobs.transition(job.id, Status.SUCCEEDED, event="job_succeeded", message="x", result=result)


def test_they_are_claimed_in_their_order_whatever_their_kind(store: JobStore) -> None:
    made = [store.jobs.create(task, priority=50 + number)[0] for number, task in enumerate(TASKS)]
    claimed = [store.leases.claim(max_running=9) for _ in TASKS]
    assert [job.id for job in claimed if job is not None] == [job.id for job in reversed(made)]
    for job, task in zip(made, TASKS, strict=True):
        found = store.jobs.get(job.id)
        assert (found.kind, found.task(), found.status) == (kind_of(task), task, Status.RUNNING)
        assert job.id.startswith(f"{ID_PREFIXES[found.kind]}_")
    assert [job.kind for job in store.leases.hold(holder="dispatcher", lease_s=30.0)] == [
        kind_of(task) for task in TASKS
    ]


def test_lists_and_counts_of_one_kind_know_no_other(store: JobStore) -> None:
    made = {kind_of(task): store.jobs.create(task)[0].id for task in TASKS}
    assert [job.id for job in store.jobs.page()[0]] == list(reversed(made.values()))
    for kind, job_id in made.items():
        assert [job.id for job in store.jobs.page(kind=kind)[0]] == [job_id]
        assert store.jobs.counts(kind=kind) == {"queued": 1}
        assert store.jobs.get(job_id, kind=kind).id == job_id
        for other in set(JobKind) - {kind}:
            with pytest.raises(NotFoundError, match="of kind"):
                store.jobs.get(job_id, kind=other)
    assert store.jobs.counts() == {"queued": 3}
    assert [job.id for job in store.jobs.live()] == list(made.values())


def test_equal_content_is_joined_within_a_kind_and_a_repeated_key_is_replayed(store: JobStore) -> None:
    first, made = store.jobs.create(IMPORT, idempotency_key="k", request_sha256="r")
    assert made
    assert store.jobs.create(IMPORT) == (first, False)
    assert store.jobs.create(IMPORT, idempotency_key="k", request_sha256="r") == (first, False)
    assert store.jobs.create(IMPORT.model_copy(update={"seed": 1}))[1]


def test_an_end_names_what_it_gave_and_a_webhook_tells_it(store: JobStore) -> None:
    job, _ = store.jobs.create(IMPORT, webhook={"url": "https://e.org", "secret": None})
    assert store.leases.claim(max_running=1) is not None
    ended = end(store, job, "draft@3")
    assert (ended.result, ended.result_pack, ended.outcome) == ("draft@3", None, "draft@3")
    (told,) = store.outbox.due()
    assert told.payload["type"] == "draft_import.succeeded"
    assert {key: told.payload["data"][key] for key in ("object", "kind", "result", "model")} == {
        "object": "job", "kind": "import_draft", "result": "draft@3", "model": "org/base",
    }  # fmt: skip
    assert "result_pack" not in told.payload["data"]


def test_a_run_directory_of_another_kind_is_adopted_as_it_was(store: JobStore, clock: Clock) -> None:
    assert store.adoption.adopt("import_by_hand", IMPORT, created_at=int(clock.now)).kind is JobKind.IMPORT_DRAFT
    facts = {"labels": {}, "priority": 50, "max_attempts": 3, "stage_deadlines": {}, "webhook": None}
    assert store.adoption.adopt_run(
        "import_lost", IMPORT, created_at=1, owner="ann", content_sha256="", attempt=2, lines=(), why="lost",
        **facts,  # type: ignore[arg-type]
    )  # fmt: skip
    found = store.jobs.get("import_lost", owner="ann", kind=JobKind.IMPORT_DRAFT)
    assert (found.task(), found.attempt, found.status) == (IMPORT, 2, Status.RUNNING)


def test_a_kind_and_a_config_that_do_not_belong_together_end_their_own_job_alone(
    url: str, open_store: Callable[[], JobStore]
) -> None:
    store = open_store()
    bad, good = store.jobs.create(IMPORT)[0], store.jobs.create(config())[0]
    engine = create_engine(store.database.engine.url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET kind = 'measure' WHERE id = :id"), {"id": bad.id})
    engine.dispose()
    claimed = store.leases.claim(max_running=9)
    assert claimed is not None
    assert claimed.id == good.id
    ended = store.jobs.get(bad.id)
    assert ended.unreadable is not None
    assert "of kind import_draft in a job of kind measure" in ended.unreadable
    assert (ended.error or {})["code"] == "artifact_corrupt"
