"""Two owners in one store: each sees, replays and joins only what is its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from store_helpers import config

from eda_service.errors import NotFoundError
from eda_service.jobstore import Job, JobStore, Status


@pytest.fixture
def anns(store: JobStore) -> Job:
    return store.jobs.create(config(), owner="ann", labels={"team": "a"})[0]


CALLS: dict[str, Callable[[JobStore, str], Any]] = {
    "get": lambda store, job_id: store.jobs.get(job_id, owner="bob"),
    "events": lambda store, job_id: store.events.of(job_id, owner="bob"),
    "page after": lambda store, job_id: store.jobs.page(after=job_id, owner="bob"),
    "set_priority": lambda store, job_id: store.jobs.set_priority(job_id, 90, owner="bob"),
}


@pytest.mark.parametrize("call", CALLS)
def test_another_owners_job_is_as_good_as_none(store: JobStore, anns: Job, call: str) -> None:
    with pytest.raises(NotFoundError) as foreign:
        CALLS[call](store, anns.id)
    with pytest.raises(NotFoundError) as missing:
        CALLS[call](store, "adapt_none")
    assert foreign.value.message.replace(anns.id, "adapt_none") == missing.value.message
    assert (foreign.value.code, foreign.value.param) == (missing.value.code, missing.value.param)
    assert store.jobs.get(anns.id) == anns


def test_pages_hold_ones_own(store: JobStore, anns: Job) -> None:
    bobs, _ = store.jobs.create(config(), owner="bob", labels={"team": "a"})
    assert [job.id for job in store.jobs.page(owner="ann")[0]] == [anns.id]
    assert [job.id for job in store.jobs.page(owner="bob", labels={"team": "a"}, status=Status.QUEUED)[0]] == [bobs.id]
    assert [job.id for job in store.jobs.page()[0]] == [bobs.id, anns.id]
    assert store.jobs.page(owner="carl")[0] == []


def test_counts_hold_ones_own(store: JobStore, anns: Job) -> None:
    store.jobs.create(config(), owner="bob")
    store.jobs.transition(anns.id, Status.CANCELLED, event="job_cancelled", message="x")
    assert store.jobs.counts(owner="ann") == {"cancelled": 1}
    assert store.jobs.counts(owner="bob") == {"queued": 1}
    assert store.jobs.counts(owner="carl") == {}
    assert store.jobs.counts() == {"cancelled": 1, "queued": 1}


def test_keys_and_content_are_per_owner(store: JobStore, anns: Job) -> None:
    bobs, made = store.jobs.create(config(), owner="bob", idempotency_key="k", request_sha256="b")
    assert made
    assert bobs.id != anns.id
    other, made = store.jobs.create(config("other"), owner="ann", idempotency_key="k", request_sha256="a")
    assert made
    assert store.jobs.create(config("other"), owner="ann", idempotency_key="k", request_sha256="a") == (other, False)
    assert store.jobs.create(config(), owner="bob", idempotency_key="k", request_sha256="b") == (bobs, False)


def test_a_job_without_an_owner_is_local(store: JobStore) -> None:
    job, _ = store.jobs.create(config())
    assert job.owner == "local"
    assert store.jobs.get(job.id, owner="local") == job
