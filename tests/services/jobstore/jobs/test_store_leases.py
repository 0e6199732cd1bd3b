"""Leases and fencing tokens: who looks after a job, and who may no longer write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from store_helpers import Clock, config

from eda_service.errors import ConflictError, LeaseLostError
from eda_service.jobstore import Job, JobStore, Status


def claim(store: JobStore, holder: str = "a", **limits: Any) -> Job:
    claimed = store.leases.claim(max_running=limits.pop("max_running", 10), holder=holder, lease_s=30.0, **limits)
    assert claimed is not None
    return claimed


def test_claiming_takes_the_lease(store: JobStore) -> None:
    store.jobs.create(config())
    job = claim(store)
    assert job.lease_token == 1
    assert store.leases.hold(holder="b", lease_s=30) == []
    assert store.leases.hold(holder="a", lease_s=30) == [job]


def test_a_lease_changes_hands_once_it_has_run_out(store: JobStore, clock: Clock) -> None:
    store.jobs.create(config())
    claim(store)
    clock.now += 29
    assert store.leases.hold(holder="b", lease_s=30) == []
    clock.now += 1
    (taken,) = store.leases.hold(holder="b", lease_s=30)
    assert taken.lease_token == 2
    assert store.leases.hold(holder="a", lease_s=30) == []


def test_holding_renews(store: JobStore, clock: Clock) -> None:
    store.jobs.create(config())
    claim(store)
    for _ in range(4):
        clock.now += 20
        (held,) = store.leases.hold(holder="a", lease_s=30)
        assert held.lease_token == 1
        assert store.leases.hold(holder="b", lease_s=30) == []


def test_a_lease_that_ran_out_is_renewed_when_nobody_took_it(store: JobStore, clock: Clock) -> None:
    store.jobs.create(config())
    job = claim(store)
    clock.now += 100
    store.events.add(job.id, "note", "late, but nobody else came", token=1)
    assert [held.lease_token for held in store.leases.hold(holder="a", lease_s=30)] == [1]


def test_a_short_lease_is_not_shorter_than_asked(store: JobStore, clock: Clock) -> None:
    store.jobs.create(config())
    store.leases.claim(max_running=1, holder="a", lease_s=0.5)
    clock.now += 0.4
    assert store.leases.hold(holder="b", lease_s=30) == []
    clock.now += 0.6
    assert len(store.leases.hold(holder="b", lease_s=30)) == 1


def test_release_frees_at_once_and_only_ones_own(store: JobStore) -> None:
    for model in ("m1", "m2"):
        store.jobs.create(config(model))
    first, second = claim(store, "a"), claim(store, "b")
    store.leases.release(holder="a")
    held = store.leases.hold(holder="c", lease_s=30)
    assert [(job.id, job.lease_token) for job in held] == [(first.id, 2)]
    assert [job.id for job in store.leases.hold(holder="b", lease_s=30)] == [second.id]


def test_adopted_jobs_are_free_to_take(store: JobStore) -> None:
    store.adoption.adopt("adapt_by_hand", config(), created_at=5)
    (job,) = store.leases.hold(holder="a", lease_s=30)
    assert (job.origin, job.lease_token) == ("ray", 1)


def test_hold_returns_what_occupies_the_cluster_oldest_first(store: JobStore) -> None:
    jobs = [store.jobs.create(config(f"m{n}"), priority=n * 10)[0] for n in range(4)]
    for _ in range(3):
        claim(store)
    store.jobs.transition(jobs[1].id, Status.CANCELLING, event="x", message="x")
    store.jobs.transition(jobs[2].id, Status.SUCCEEDED, event="x", message="x")
    assert [job.id for job in store.leases.hold(holder="a", lease_s=30)] == [jobs[1].id, jobs[3].id]


def test_the_end_of_an_attempt_ends_the_lease(store: JobStore) -> None:
    store.jobs.create(config())
    job = claim(store)
    back = store.jobs.transition(job.id, Status.QUEUED, event="attempt_lost", message="m", token=1)
    assert (back.lease_token, back.ray_session) == (1, None)
    again = claim(store, "b")
    assert again.lease_token == 2
    with pytest.raises(LeaseLostError):
        store.jobs.transition(job.id, Status.FAILED, event="x", message="x", token=1)


LINE = {"at": 1, "level": "info", "type": "t", "message": "m", "stage": "train"}
WRITES: dict[str, Callable[[JobStore, str, int | None], Any]] = {
    "transition": lambda s, job_id, t: s.jobs.transition(job_id, Status.SUCCEEDED, event="x", message="x", token=t),
    "mark_submitted": lambda s, job_id, t: s.jobs.mark_submitted(job_id, token=t, ray_session="session_1"),
    "record_progress": lambda s, job_id, t: s.jobs.record_progress(job_id, {"stage": "train"}, token=t),
    "import_events": lambda s, job_id, t: s.events.bring_in(job_id, [LINE], start=0, token=t),
    "add_event": lambda s, job_id, t: s.events.add(job_id, "note", "m", token=t),
}


@pytest.mark.parametrize("write", WRITES)
def test_whoever_slept_through_its_lease_cannot_write(store: JobStore, clock: Clock, write: str) -> None:
    store.jobs.create(config())
    job = claim(store, "a")
    clock.now += 31
    (taken,) = store.leases.hold(holder="b", lease_s=30)
    events = store.events.of(job.id)
    with pytest.raises(LeaseLostError, match="leased with token 2 to b, not with 1") as caught:
        WRITES[write](store, job.id, 1)
    assert isinstance(caught.value, ConflictError)
    assert (store.jobs.get(job.id), store.events.of(job.id)) == (taken, events)
    WRITES[write](store, job.id, 2)
    assert (store.jobs.get(job.id), store.events.of(job.id)) != (taken, events)


@pytest.mark.parametrize("write", WRITES)
def test_without_a_token_nothing_is_checked(store: JobStore, write: str) -> None:
    store.jobs.create(config())
    job = claim(store)
    before = (store.jobs.get(job.id), store.events.of(job.id))
    WRITES[write](store, job.id, None)
    assert (store.jobs.get(job.id), store.events.of(job.id)) != before


def test_the_ray_session_belongs_to_one_attempt(store: JobStore) -> None:
    job, _ = store.jobs.create(config())
    claim(store)
    store.jobs.mark_submitted(job.id, ray_session="session_1")
    assert store.jobs.get(job.id).ray_session == "session_1"
    store.jobs.transition(job.id, Status.QUEUED, event="attempt_lost", message="m")
    assert (store.jobs.get(job.id).ray_session, store.jobs.get(job.id).submitted_at) == (None, None)


def test_owners_at_their_limit_are_passed_over(store: JobStore) -> None:
    ann = [store.jobs.create(config(f"a{n}"), owner="ann", priority=90)[0] for n in range(3)]
    bob, _ = store.jobs.create(config("b"), owner="bob", priority=10)
    order = [claim(store, max_running_per_owner=1).id for _ in range(2)]
    assert order == [ann[0].id, bob.id]
    assert store.leases.claim(max_running=10, max_running_per_owner=1) is None
    store.jobs.transition(ann[0].id, Status.CANCELLING, event="x", message="x")
    assert store.leases.claim(max_running=10, max_running_per_owner=1) is None  # being cancelled still occupies
    store.jobs.transition(ann[0].id, Status.CANCELLED, event="x", message="x")
    assert claim(store, max_running_per_owner=1).id == ann[1].id
    assert store.leases.claim(max_running=10, max_running_per_owner=0) is None
    assert store.leases.claim(max_running=2, max_running_per_owner=5) is None
