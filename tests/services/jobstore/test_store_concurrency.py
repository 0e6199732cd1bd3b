"""Many stores over one database at once, as many processes would be: threads, one engine each."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from sqlalchemy import select, text
from store_helpers import at_once, config

from eda_service.errors import ConflictError, QuotaExceededError, StaleDeploymentError
from eda_service.jobstore import Deployment, JobStore, Status
from eda_service.jobstore.deployments.deployments import write
from eda_service.jobstore.locks import Space, lock
from eda_service.jobstore.models import JobRow

Opener = Callable[[], JobStore]


def claim_all(store: JobStore, **limits: int) -> list[str]:
    found = []
    while (job := store.leases.claim(**{"max_running": 1000, **limits})) is not None:
        found.append(job.id)
    return found


def test_claims_never_share_a_job(store: JobStore, open_store: Opener) -> None:
    made = [store.jobs.create(config(f"m{number}"))[0].id for number in range(24)]
    claimed = at_once([partial(claim_all, open_store()) for _ in range(6)])
    assert sorted(job_id for each in claimed for job_id in each) == sorted(made)
    assert {job.lease_token for job in store.leases.occupying()} == {1}


def test_claims_never_exceed_the_room(store: JobStore, open_store: Opener) -> None:
    for number in range(12):
        store.jobs.create(config(f"m{number}"), owner=f"owner{number % 2}")
    stores = [open_store() for _ in range(4)]
    claimed = at_once([partial(claim_all, each, max_running=5, max_running_per_owner=2) for each in stores])
    assert sum(len(each) for each in claimed) == 4
    assert sorted(job.owner for job in store.leases.occupying()) == ["owner0", "owner0", "owner1", "owner1"]
    assert sum(len(each) for each in at_once([partial(claim_all, each, max_running=5) for each in stores])) == 1


def test_two_holders_never_have_the_same_job(store: JobStore, open_store: Opener) -> None:
    for number in range(12):
        store.jobs.create(config(f"m{number}"))
    claim_all(store)
    store.leases.release(holder="dispatcher")
    stores = [open_store() for _ in range(4)]

    def hold(place: int) -> set[str]:
        held: set[str] = set()
        for _ in range(5):
            held = {job.id for job in stores[place].leases.hold(holder=str(place), lease_s=60)}
        return held

    held = at_once([partial(hold, place) for place in range(4)])
    assert sum(len(each) for each in held) == 12
    assert len(set().union(*held)) == 12
    assert {job.lease_token for job in store.leases.occupying()} == {2}


def test_64_equal_requests_with_one_key_make_one_job(store: JobStore, open_store: Opener) -> None:
    stores = [open_store() for _ in range(8)]
    create = [
        partial(each.jobs.create, config(), force=True, idempotency_key="k", request_sha256="a")
        for each in stores
        for _ in range(8)
    ]
    results = at_once(create)
    assert len({job.id for job, _ in results}) == 1
    assert sum(made for _, made in results) == 1
    assert len(store.jobs.page()[0]) == 1


def test_equal_content_at_once_is_one_job_and_the_quota_holds(store: JobStore, open_store: Opener) -> None:
    stores = [open_store() for _ in range(6)]
    results = at_once([partial(each.jobs.create, config()) for each in stores])
    assert sum(made for _, made in results) == 1

    def create(place: int) -> bool:
        try:
            return stores[place].jobs.create(config(f"m{place}"), owner="ann", max_queued_per_owner=2)[1]
        except QuotaExceededError:
            return False

    assert sum(at_once([partial(create, place) for place in range(6)])) == 2
    assert len(store.jobs.page(owner="ann")[0]) == 2


def test_of_many_moves_one_is_made(store: JobStore, open_store: Opener) -> None:
    job, _ = store.jobs.create(config(), webhook={"url": "https://hooks.example/x", "secret": "s"})

    def cancel(each: JobStore) -> bool:
        try:
            each.jobs.transition(job.id, Status.CANCELLED, event="job_cancelled", message="m")
        except ConflictError:
            return False
        return True

    assert sum(at_once([partial(cancel, open_store()) for _ in range(6)])) == 1
    assert [event.type for event in store.events.of(job.id)[0]] == ["job_created", "job_cancelled"]
    assert len(store.outbox.due()) == 1


def test_a_file_of_events_is_imported_once_by_many(store: JobStore, open_store: Opener) -> None:
    job, _ = store.jobs.create(config())
    lines = [{"at": n, "level": "info", "type": f"t{n}", "message": "m", "stage": "train"} for n in range(20)]
    at_once([partial(open_store().events.bring_in, job.id, lines, start=0) for _ in range(6)])
    assert [event.type for event in store.events.of(job.id)[0]] == ["job_created", *(f"t{n}" for n in range(20))]


def test_a_reader_that_goes_on_after_the_last_id_misses_no_event(store: JobStore, open_store: Opener) -> None:
    """Ids come from a sequence on PostgreSQL: without the lock on the job's row a lower one may appear later."""
    job, _ = store.jobs.create(config())
    writers = [open_store() for _ in range(4)]
    num_each = 15
    done = threading.Event()

    def write(each: JobStore) -> None:
        for _ in range(num_each):
            each.events.add(job.id, "note", "m")

    def read() -> list[int]:
        seen: list[int] = []
        while True:
            is_last = done.is_set()
            page, has_more = store.events.of(job.id, after=seen[-1] if seen else 0)
            seen += [event.id for event in page]
            if is_last and not has_more and not page:
                return seen

    def write_all() -> list[int]:
        at_once([partial(write, each) for each in writers])
        done.set()
        return []

    seen, _ = at_once([read, write_all])
    assert len(seen) == 1 + 4 * num_each
    assert seen == sorted(set(seen))


def test_jobs_of_one_served_name_that_succeed_at_once_leave_one_revision_each(
    store: JobStore, open_store: Opener
) -> None:
    stores = [open_store() for _ in range(4)]
    jobs = [store.jobs.create(config(f"m{place}"))[0] for place in range(4)]
    claim_all(store)

    def succeed(place: int) -> None:
        mine = stores[place]
        while mine.jobs.get(jobs[place].id).status is Status.RUNNING:
            seen = {each.name: each.revision for each in mine.deployments.all()}
            deployment = Deployment(
                name="pair",
                target={"model": "m"},
                base_draft="d@1",
                pack=f"p@{place}",
                job_id=jobs[place].id,
                revision=seen.get("pair", 0),
            )
            with contextlib.suppress(StaleDeploymentError):
                mine.jobs.transition(jobs[place].id, Status.SUCCEEDED, event="x", message="x", deployment=deployment)

    at_once([partial(succeed, place) for place in range(4)])
    assert [(each.name, each.revision) for each in store.deployments.all()] == [("pair", 4)]
    history = store.deployments.revisions("pair")
    assert [each.revision for each in history] == [4, 3, 2, 1]
    assert {each.pack for each in history} == {f"p@{place}" for place in range(4)}
    assert store.jobs.counts() == {"succeeded": 4}


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_transition_that_waits_for_a_deployment_does_not_block_its_holder(
    store: JobStore, open_store: Opener
) -> None:
    """Else the two would wait for each other: the holder's row refers to the job that the transition has locked."""
    job, _ = store.jobs.create(config())
    claim_all(store)
    other = open_store()
    first = Deployment(name="pair", target={"model": "m"}, base_draft="d@1", pack="p@1", job_id=job.id)
    deployment = first.model_copy(update={"pack": "p@2", "revision": 1})
    succeed = partial(
        other.jobs.transition, job.id, Status.SUCCEEDED, event="x", message="x", result_pack="p", deployment=deployment
    )
    thread = threading.Thread(target=succeed)
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with store.database.write.begin() as session:
        lock(session, Space.DEPLOYMENT, "pair")
        thread.start()
        deadline = time.monotonic() + 30
        while session.scalar(waiting) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        write(session, first, 1, made_by="local", reason="first")
    thread.join(30)
    assert store.jobs.get(job.id).status is Status.SUCCEEDED
    assert [each.pack for each in store.deployments.revisions("pair")] == ["p@2", "p@1"]


def test_one_run_directory_is_adopted_once(store: JobStore, open_store: Opener) -> None:
    adopted = at_once([partial(open_store().adoption.adopt, "adapt_by_hand", config(), created_at=5) for _ in range(4)])
    assert len({job.seq for job in adopted}) == 1
    assert len(store.events.of("adapt_by_hand")[0]) == 1


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_job_that_somebody_is_writing_is_skipped_and_not_waited_for(store: JobStore, open_store: Opener) -> None:
    first, _ = store.jobs.create(config("a"))
    second, _ = store.jobs.create(config("b"))
    third, _ = store.jobs.create(config("c"))
    claim_all(store, max_running=1)
    with store.database.write.begin() as session:
        session.execute(text("SET LOCAL lock_timeout = 0"))
        session.scalars(select(JobRow).where(JobRow.id.in_([first.id, second.id])).with_for_update()).all()
        other = open_store()
        assert other.leases.hold(holder="dispatcher", lease_s=30) == []
        claimed = other.leases.claim(max_running=2)
    assert claimed is not None
    assert claimed.id == third.id
    assert [job.id for job in store.leases.hold(holder="dispatcher", lease_s=30)] == [first.id, third.id]


def test_a_job_is_retried_once_however_many_ask_while_it_is_claimed(store: JobStore, open_store: Opener) -> None:
    job, _ = store.jobs.create(config())
    store.jobs.transition(job.id, Status.CANCELLED, event="job_cancelled", message="x")
    stores = [open_store() for _ in range(6)]

    def retry_and_claim(each: JobStore) -> int:
        done = 0
        for _ in range(6):
            with contextlib.suppress(ConflictError):
                each.jobs.transition(
                    job.id,
                    Status.QUEUED,
                    event="job_retried",
                    message="x",
                    only_from={Status.FAILED, Status.CANCELLED},
                )
                done += 1
            each.leases.claim(max_running=10)
        return done

    assert sum(at_once([partial(retry_and_claim, each) for each in stores])) == 1
    assert (store.jobs.get(job.id).status, store.jobs.get(job.id).attempt) == (Status.RUNNING, 1)
    assert [event.type for event in store.events.of(job.id)[0]].count("attempt_started") == 1
