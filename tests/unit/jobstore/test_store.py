"""The queue on a real SQLite file: durability settings, dedup, claims from many threads, and the table of moves."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from eda_service.config import AdaptConfig
from eda_service.errors import ConflictError, NotFoundError
from eda_service.jobstore import Deployment, JobStore, Status
from eda_service.jobstore.ids import new_job_id
from eda_service.jobstore.status import LEGAL, LIVE, TERMINAL, require_legal


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[JobStore]:
    opened = JobStore(f"sqlite:///{tmp_path / 'eda.db'}", clock=clock)
    yield opened
    opened.close()


def config(model: str = "org/model", **changes: object) -> AdaptConfig:
    return AdaptConfig.model_validate({"target": {"model": model}, **changes})


def test_table_has_exactly_these_moves() -> None:
    q, r, s, f, c, x = Status  # queued, running, succeeded, failed, cancelling, cancelled
    wanted = {(q, r), (q, f), (q, x), (r, s), (r, f), (r, c), (r, q), (c, x), (c, s), (c, f), (f, q), (x, q)}
    assert {(a, b) for a, bs in LEGAL.items() for b in bs} == wanted
    assert frozenset({q, r, c}) == LIVE
    assert frozenset({s, f, x}) == TERMINAL


def test_illegal_moves_are_refused_by_name() -> None:
    for source, destination in product(Status, Status):
        if destination in LEGAL[source]:
            require_legal("adapt_1", source, destination)
        else:
            with pytest.raises(ConflictError, match=f"is {source.value} and cannot become {destination.value}"):
                require_legal("adapt_1", source, destination)


def test_ids_sort_by_time() -> None:
    ids = [new_job_id(now_s) for now_s in (1.0, 2.0, 1e9, 1.7e9, 1.8e9)]
    assert ids == sorted(ids)
    assert all(len(each) == len("adapt_") + 26 for each in ids)
    assert new_job_id(1.0) != new_job_id(1.0)


def test_database_is_durable(store: JobStore, tmp_path: Path) -> None:
    store.create(config())
    with sqlite3.connect(tmp_path / "eda.db") as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_jobs_survive_a_restart(store: JobStore, tmp_path: Path) -> None:
    job, _ = store.create(config(seed=7), labels={"team": "math"})
    claimed = store.claim(max_running=1)
    store.close()
    reopened = JobStore(f"sqlite:///{tmp_path / 'eda.db'}")
    found = reopened.get(job.id)
    assert found == claimed
    assert found.adapt_config().seed == 7
    assert found.labels == {"team": "math"}
    assert [event.type for event in reopened.events(job.id)[0]] == ["job_created", "attempt_started"]
    reopened.close()


def test_idempotency_key_replays_and_refuses_another_body(store: JobStore) -> None:
    first, made = store.create(config(), idempotency_key="k", request_sha256="a", force=True)
    again, made_again = store.create(config(), idempotency_key="k", request_sha256="a", force=True)
    assert (made, made_again) == (True, False)
    assert again.id == first.id
    with pytest.raises(ConflictError, match="another request body"):
        store.create(config("other"), idempotency_key="k", request_sha256="b")


def test_equal_live_jobs_are_one(store: JobStore) -> None:
    first, _ = store.create(config())
    assert store.create(config())[0].id == first.id
    assert store.create(config(seed=1))[0].id != first.id
    assert store.create(config(), force=True)[0].id != first.id


def test_a_finished_or_cancelling_job_is_not_joined(store: JobStore) -> None:
    first, _ = store.create(config())
    store.claim(max_running=1)
    store.transition(first.id, Status.CANCELLING, event="x", message="x")
    second, made = store.create(config())
    assert made
    store.transition(first.id, Status.CANCELLED, event="x", message="x")
    store.transition(second.id, Status.FAILED, event="x", message="x")
    assert store.create(config())[1]


def test_claim_takes_priority_then_arrival(store: JobStore) -> None:
    jobs = [store.create(config(f"m{place}"), priority=p)[0] for place, p in enumerate((50, 50, 90, 10))]
    order = [claimed.id for _ in range(4) if (claimed := store.claim(max_running=10)) is not None]
    assert order == [jobs[2].id, jobs[0].id, jobs[1].id, jobs[3].id]
    assert store.claim(max_running=10) is None


def test_claim_respects_room_and_back_off(store: JobStore, clock: Clock) -> None:
    first, _ = store.create(config("a"))
    second, _ = store.create(config("b"))
    assert store.claim(max_running=1) is not None
    assert store.claim(max_running=1) is None
    store.transition(first.id, Status.CANCELLING, event="x", message="x")
    assert store.claim(max_running=1) is None  # a job that is being cancelled still occupies the cluster
    store.transition(first.id, Status.CANCELLED, event="x", message="x")
    claimed = store.claim(max_running=1)
    assert claimed is not None
    store.transition(second.id, Status.QUEUED, event="x", message="x", not_before=int(clock.now) + 10)
    assert store.claim(max_running=1) is None
    clock.now += 10
    again = store.claim(max_running=1)
    assert again is not None
    assert (again.id, again.attempt, again.submitted_at) == (second.id, 2, None)


def test_concurrent_claims_never_share_a_job(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'eda.db'}"
    num_jobs, num_threads = 24, 6
    with_jobs = JobStore(url)
    for number in range(num_jobs):
        with_jobs.create(config(f"m{number}"))
    stores = [JobStore(url) for _ in range(num_threads)]  # one engine each: as if they were processes
    claimed: list[list[str]] = [[] for _ in stores]
    barrier = threading.Barrier(num_threads)

    def work(place: int) -> None:
        barrier.wait()
        while (job := stores[place].claim(max_running=num_jobs)) is not None:
            claimed[place].append(job.id)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = [job_id for each in claimed for job_id in each]
    assert len(found) == num_jobs
    assert len(set(found)) == num_jobs
    for each in (with_jobs, *stores):
        each.close()


def test_concurrent_claims_never_exceed_the_room(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'eda.db'}"
    store = JobStore(url)
    for number in range(8):
        store.create(config(f"m{number}"))
    stores = [JobStore(url) for _ in range(4)]
    found: list[str] = []

    def work(each: JobStore) -> None:
        found.extend(job.id for _ in range(4) if (job := each.claim(max_running=2)) is not None)

    threads = [threading.Thread(target=work, args=(each,)) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2
    for each in (store, *stores):
        each.close()


def test_a_refused_move_leaves_neither_state_nor_event(store: JobStore) -> None:
    job, _ = store.create(config())
    with pytest.raises(ConflictError):
        store.transition(job.id, Status.SUCCEEDED, event="job_succeeded", message="no")
    assert store.get(job.id) == job
    assert len(store.events(job.id)[0]) == 1


def test_success_and_deployment_are_one_transaction(store: JobStore) -> None:
    job, _ = store.create(config())
    store.claim(max_running=1)
    deployment = Deployment(
        name="pair", target={"model": "m"}, base_draft="d@1", pack="p@1", job_id=job.id, updated_at=1
    )
    done = store.transition(
        job.id, Status.SUCCEEDED, event="done", message="x", result_pack="p@1", deployment=deployment
    )
    assert done.finished_at is not None
    assert store.deployments() == [deployment]
    newer = deployment.model_copy(update={"pack": "p@2"})
    store.put_deployment(newer)
    assert store.deployments() == [newer]


def test_events_of_the_file_are_imported_once(store: JobStore) -> None:
    job, _ = store.create(config())
    lines = [{"at": n, "level": "info", "type": f"t{n}", "message": "m", "stage": "train"} for n in range(5)]
    store.import_events(job.id, lines[:3], start=0)
    store.import_events(job.id, lines, start=0)  # a dispatcher that had not seen the first import
    store.import_events(job.id, lines[4:], start=4)
    events, has_more = store.events(job.id)
    assert [event.type for event in events] == ["job_created", "t0", "t1", "t2", "t3", "t4"]
    assert not has_more
    page, has_more = store.events(job.id, after=events[1].id, limit=2)
    assert [event.type for event in page] == ["t1", "t2"]
    assert has_more


def test_pages_are_newest_first_and_filtered(store: JobStore) -> None:
    jobs = [store.create(config(f"m{n}"), labels={"team": "a" if n % 2 else "b"})[0] for n in range(5)]
    page, has_more = store.page(limit=2)
    assert [job.id for job in page] == [jobs[4].id, jobs[3].id]
    assert has_more
    rest, has_more = store.page(limit=10, after=page[-1].id)
    assert [job.id for job in rest] == [jobs[2].id, jobs[1].id, jobs[0].id]
    assert not has_more
    assert [job.id for job in store.page(labels={"team": "a"})[0]] == [jobs[3].id, jobs[1].id]
    store.claim(max_running=1)
    assert [job.id for job in store.page(status=Status.RUNNING)[0]] == [jobs[0].id]
    with pytest.raises(NotFoundError):
        store.page(after="adapt_none")


def test_retry_clears_what_the_last_attempt_left(store: JobStore) -> None:
    job, _ = store.create(config())
    store.claim(max_running=1)
    store.mark_submitted(job.id)
    store.record_progress(job.id, {"stage": "train", "percent": 50.0, "step": 1, "total_steps": 2, "updated_at": 1})
    store.transition(job.id, Status.FAILED, event="x", message="x", error={"code": "internal", "message": "m"})
    again = store.transition(job.id, Status.QUEUED, event="x", message="x", extra_attempts=3)
    assert (again.stage, again.progress, again.error, again.finished_at, again.submitted_at) == (None,) * 5
    assert again.max_attempts == job.max_attempts + 3
