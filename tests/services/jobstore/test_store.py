"""The queue on both databases: durability settings, dedup, order of claims, pages, and the table of moves."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import text
from store_helpers import Clock, config

from eda_service.errors import ConflictError, InputError, NotFoundError, QuotaExceededError, StaleDeploymentError
from eda_service.ids import new_job_id
from eda_service.jobstore import Deployment, JobStore, Status
from eda_service.jobstore.jobs.status import LEGAL, LIVE, TERMINAL, require_legal


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


@pytest.mark.usefixtures("database_as_served")
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_sqlite_is_durable(store: JobStore, tmp_path: Path) -> None:
    store.jobs.create(config())
    with sqlite3.connect(tmp_path / "eda.db") as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with store.database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_postgresql_waits_for_a_lock_as_long_as_sqlite_does(store: JobStore) -> None:
    with store.database.engine.connect() as connection:
        assert connection.scalar(text("SHOW lock_timeout")) == "30s"
        assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "1min"
        assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_connections_that_the_server_closed_are_replaced(open_store: Callable[[], JobStore]) -> None:
    store, other = open_store(), open_store()
    job, _ = store.jobs.create(config())
    with other.database.engine.connect() as connection:
        others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        others += " AND datname = current_database()"
        # A connection that a migration has just closed may still be listed beside the store's own.
        assert set(connection.scalars(text(f"SELECT pg_terminate_backend(pid) {others}"))) == {True}
    assert store.leases.claim(max_running=1) == store.jobs.get(job.id)


def test_the_store_says_what_it_stands_on(store: JobStore, backend: str) -> None:
    assert store.backend == backend


def test_other_databases_are_refused() -> None:
    with pytest.raises(InputError, match="not on 'mysql'"):
        JobStore("mysql://localhost/eda")


def test_jobs_survive_a_restart(open_store: Callable[[], JobStore]) -> None:
    store = open_store()
    job, _ = store.jobs.create(config(seed=7), labels={"team": "math"})
    claimed = store.leases.claim(max_running=1)
    store.close()
    reopened = open_store()
    found = reopened.jobs.get(job.id)
    assert found == claimed
    assert found.adapt_config().seed == 7
    assert found.labels == {"team": "math"}
    assert [event.type for event in reopened.events.of(job.id)[0]] == ["job_created", "attempt_started"]


def test_idempotency_key_replays_and_refuses_another_body(store: JobStore) -> None:
    first, made = store.jobs.create(config(), idempotency_key="k", request_sha256="a", force=True)
    again, made_again = store.jobs.create(config(), idempotency_key="k", request_sha256="a", force=True)
    assert (made, made_again) == (True, False)
    assert again.id == first.id
    with pytest.raises(ConflictError, match="another request body"):
        store.jobs.create(config("other"), idempotency_key="k", request_sha256="b")


def test_equal_live_jobs_are_one(store: JobStore) -> None:
    first, _ = store.jobs.create(config())
    assert store.jobs.create(config())[0].id == first.id
    assert store.jobs.create(config(seed=1))[0].id != first.id
    newest = store.jobs.create(config(), force=True)[0]
    assert newest.id != first.id
    assert store.jobs.create(config()) == (newest, False)


def test_a_finished_or_cancelling_job_is_not_joined(store: JobStore) -> None:
    first, _ = store.jobs.create(config())
    store.leases.claim(max_running=1)
    store.jobs.transition(first.id, Status.CANCELLING, event="x", message="x")
    second, made = store.jobs.create(config())
    assert made
    store.jobs.transition(first.id, Status.CANCELLED, event="x", message="x")
    store.jobs.transition(second.id, Status.FAILED, event="x", message="x")
    assert store.jobs.create(config())[1]


def test_claim_takes_priority_then_arrival(store: JobStore) -> None:
    jobs = [store.jobs.create(config(f"m{place}"), priority=p)[0] for place, p in enumerate((50, 50, 90, 10))]
    order = [claimed.id for _ in range(4) if (claimed := store.leases.claim(max_running=10)) is not None]
    assert order == [jobs[2].id, jobs[0].id, jobs[1].id, jobs[3].id]
    assert store.leases.claim(max_running=10) is None


def test_claim_respects_room_and_back_off(store: JobStore, clock: Clock) -> None:
    first, _ = store.jobs.create(config("a"))
    second, _ = store.jobs.create(config("b"))
    assert store.leases.claim(max_running=1) is not None
    assert store.leases.claim(max_running=1) is None
    store.jobs.transition(first.id, Status.CANCELLING, event="x", message="x")
    assert store.leases.claim(max_running=1) is None  # a job that is being cancelled still occupies the cluster
    store.jobs.transition(first.id, Status.CANCELLED, event="x", message="x")
    claimed = store.leases.claim(max_running=1)
    assert claimed is not None
    store.jobs.transition(second.id, Status.QUEUED, event="x", message="x", not_before=int(clock.now) + 10)
    assert store.leases.claim(max_running=1) is None
    clock.now += 9
    assert store.leases.claim(max_running=1) is None
    clock.now += 1
    again = store.leases.claim(max_running=1)
    assert again is not None
    assert (again.id, again.attempt, again.submitted_at) == (second.id, 2, None)


def test_a_refused_move_leaves_neither_state_nor_event(store: JobStore) -> None:
    job, _ = store.jobs.create(config())
    with pytest.raises(ConflictError):
        store.jobs.transition(job.id, Status.SUCCEEDED, event="job_succeeded", message="no")
    assert store.jobs.get(job.id) == job
    assert len(store.events.of(job.id)[0]) == 1


def test_success_and_deployment_are_one_transaction(store: JobStore) -> None:
    job, _ = store.jobs.create(config(), owner="ada")
    store.leases.claim(max_running=1)
    deployment = Deployment(name="pair", owner="ada", target={"model": "m"}, base_draft="d@1", pack="p@1")
    with pytest.raises(StaleDeploymentError):
        store.jobs.transition(
            job.id, Status.SUCCEEDED, event="e", message="x", deployment=deployment.model_copy(update={"revision": 4})
        )
    assert store.jobs.get(job.id).status is Status.RUNNING
    done = store.jobs.transition(
        job.id, Status.SUCCEEDED, event="done", message="serving", result_pack="p@1", deployment=deployment
    )
    assert done.finished_at is not None
    (stored,) = store.deployments.all()
    assert (stored.pack, stored.revision) == ("p@1", 1)
    (revision,) = store.deployments.revisions("pair")
    assert (revision.made_by, revision.reason) == ("ada", "serving")


def test_a_success_that_keeps_the_deployment_says_why_before_it_ends_the_job(store: JobStore) -> None:
    job, _ = store.jobs.create(config())
    store.leases.claim(max_running=1)
    store.jobs.transition(job.id, Status.SUCCEEDED, event="job_succeeded", message="x", deployment_kept="it is worse")
    assert [(e.type, e.level) for e in store.events.of(job.id)[0]][-2:] == [
        ("deployment_kept", "warning"),
        ("job_succeeded", "info"),
    ]
    assert store.deployments.all() == []


def test_events_of_the_file_are_imported_once(store: JobStore) -> None:
    job, _ = store.jobs.create(config())
    lines = [{"at": n, "level": "info", "type": f"t{n}", "message": "m", "stage": "train"} for n in range(5)]
    store.events.bring_in(job.id, lines[:3], start=0)
    store.events.bring_in(job.id, lines, start=0)  # a dispatcher that had not seen the first import
    store.events.bring_in(job.id, lines[4:], start=4)
    events, has_more = store.events.of(job.id)
    assert [event.type for event in events] == ["job_created", "t0", "t1", "t2", "t3", "t4"]
    assert not has_more
    page, has_more = store.events.of(job.id, after=events[1].id, limit=2)
    assert [event.type for event in page] == ["t1", "t2"]
    assert has_more


def test_pages_are_newest_first_and_filtered(store: JobStore) -> None:
    jobs = [store.jobs.create(config(f"m{n}"), labels={"team": "a" if n % 2 else "b"})[0] for n in range(5)]
    page, has_more = store.jobs.page(limit=2)
    assert [job.id for job in page] == [jobs[4].id, jobs[3].id]
    assert has_more
    rest, has_more = store.jobs.page(limit=10, after=page[-1].id)
    assert [job.id for job in rest] == [jobs[2].id, jobs[1].id, jobs[0].id]
    assert not has_more
    assert [job.id for job in store.jobs.page(labels={"team": "a"})[0]] == [jobs[3].id, jobs[1].id]
    store.leases.claim(max_running=1)
    assert [job.id for job in store.jobs.page(status=Status.RUNNING)[0]] == [jobs[0].id]
    with pytest.raises(NotFoundError):
        store.jobs.page(after="adapt_none")


def test_retry_clears_what_the_last_attempt_left(store: JobStore) -> None:
    job, _ = store.jobs.create(config())
    store.leases.claim(max_running=1)
    store.jobs.mark_submitted(job.id)
    store.jobs.record_progress(
        job.id, {"stage": "train", "percent": 50.0, "step": 1, "total_steps": 2, "updated_at": 1}
    )
    store.jobs.transition(job.id, Status.FAILED, event="x", message="x", error={"code": "internal", "message": "m"})
    again = store.jobs.transition(job.id, Status.QUEUED, event="x", message="x", extra_attempts=3)
    assert (again.stage, again.progress, again.error, again.finished_at, again.submitted_at) == (None,) * 5
    assert again.max_attempts == job.max_attempts + 3


def test_events_that_would_leave_a_gap_are_refused(store: JobStore) -> None:
    job, _ = store.jobs.create(config())
    line = {"at": 1, "level": "info", "type": "t", "message": "m", "stage": None}
    with pytest.raises(ConflictError, match="start at line 2, but only 0 were imported"):
        store.events.bring_in(job.id, [line], start=2)
    assert store.jobs.get(job.id).events_read == 0


def test_a_job_that_was_adopted_is_not_adopted_again(store: JobStore) -> None:
    first = store.adoption.adopt("adapt_by_hand", config(), created_at=5)
    assert (first.origin, first.status, first.created_at) == ("ray", Status.RUNNING, 5)
    assert store.adoption.adopt("adapt_by_hand", config("other"), created_at=6) == first
    assert len(store.events.of(first.id)[0]) == 1


def test_equal_content_with_another_webhook_or_deadline_is_another_job(store: JobStore) -> None:
    hook = {"url": "https://hooks.example/a", "secret": "s"}
    asked = [{}, {"webhook": hook}, {"webhook": {**hook, "url": "https://hooks.example/b"}}]
    asked += [{"stage_deadlines": {"train": 60.0}}, {"webhook": hook, "stage_deadlines": {"train": 60.0}}]
    made = [store.jobs.create(config(), **each)[0] for each in asked]
    assert len({job.id for job in made}) == len(asked)
    assert [store.jobs.create(config(), **each)[0].id for each in asked] == [job.id for job in made]
    assert [job.webhook_url for job in made[:3]] == [None, "https://hooks.example/a", "https://hooks.example/b"]
    assert made[3].stage_deadlines == {"train": 60.0}
    assert "'s'" not in repr(made[1])  # the secret


def test_an_idempotency_key_is_forgotten_when_it_is_old(store: JobStore, clock: Clock) -> None:
    first, _ = store.jobs.create(config(), idempotency_key="k")
    clock.now += 100
    assert store.jobs.create(config(), idempotency_key="k", force=True) == (first, False)
    assert store.jobs.forget_keys(before=int(clock.now) - 100) == 0
    assert store.jobs.forget_keys(before=int(clock.now) - 99) == 1
    second, made = store.jobs.create(config(), idempotency_key="k", force=True)
    assert made
    assert second.id != first.id
    assert store.jobs.get(first.id) == first


@pytest.mark.parametrize("where", ["status = 'queued'", "owner = 'a' AND status = 'queued'", "owner = 'a'"])
def test_lists_walk_an_index_of_sqlite(tmp_path: Path, where: str) -> None:
    """PostgreSQL plans by its statistics; `make bench NAME=jobs` times both."""
    path = tmp_path / "plan.db"
    JobStore(f"sqlite:///{path}").close()
    raw = sqlite3.connect(path)
    plan = raw.execute(f"EXPLAIN QUERY PLAN SELECT * FROM jobs WHERE {where} ORDER BY seq DESC LIMIT 21").fetchall()
    raw.close()
    assert "USING INDEX" in str(plan)
    assert "ORDER BY" not in str(plan), "it sorts"


def test_the_quota_counts_queued_jobs_of_one_owner(store: JobStore) -> None:
    first, _ = store.jobs.create(config("a"), owner="ann", max_queued_per_owner=2, idempotency_key="k")
    store.jobs.create(config("b"), owner="ann", max_queued_per_owner=2)
    with pytest.raises(QuotaExceededError, match="2 jobs of this owner are queued and the limit is 2"):
        store.jobs.create(config("c"), owner="ann", max_queued_per_owner=2)
    assert store.jobs.create(config("c"), owner="bob", max_queued_per_owner=2)[1]
    # what makes no job needs no room
    assert store.jobs.create(config("b"), owner="ann", max_queued_per_owner=2)[1] is False
    assert store.jobs.create(config("a"), owner="ann", max_queued_per_owner=2, idempotency_key="k") == (first, False)
    store.jobs.transition(first.id, Status.CANCELLED, event="x", message="x")
    assert store.jobs.create(config("c"), owner="ann", max_queued_per_owner=2)[1]


def test_a_priority_can_be_changed_while_queued(store: JobStore) -> None:
    first, _ = store.jobs.create(config("a"))
    second, _ = store.jobs.create(config("b"))
    changed = store.jobs.set_priority(second.id, 90)
    assert changed.priority == 90
    claimed = store.leases.claim(max_running=1)
    assert claimed is not None
    assert claimed.id == second.id
    events = store.events.of(second.id)[0]
    assert [(event.type, event.message) for event in events[1:2]] == [("priority_changed", "from 50 to 90")]
    with pytest.raises(ConflictError, match="is running; a priority only counts"):
        store.jobs.set_priority(second.id, 10)
    assert store.jobs.get(second.id).priority == 90
    with pytest.raises(NotFoundError):
        store.jobs.set_priority(first.id, 90, owner="somebody")
