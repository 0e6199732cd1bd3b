"""Values that one of the databases would refuse or mistake: NUL, half surrogates, NaN, quotes in labels, far times."""

from __future__ import annotations

import pytest
from store_helpers import Clock, config

from eda_service.errors import NotFoundError
from eda_service.jobstore import JobStore


def test_text_that_one_database_cannot_hold_is_mended(store: JobStore) -> None:
    """PostgreSQL has no NUL, no half surrogates and no NaN in JSON; a log tail or a heartbeat may hold them."""
    job, _ = store.jobs.create(config(), labels={"a\0": "b\0"})
    assert job.labels == {"a\ufffd": "b\ufffd"}
    assert [found.id for found in store.jobs.page(labels={"a\0": "b\0"})[0]] == [job.id]
    store.leases.claim(max_running=1)
    store.jobs.record_progress(job.id, {"stage": "train" + "n" * 99, "loss": float("nan"), "all": [1.0, float("inf")]})
    store.events.add(job.id, "t" * 99, "tail\0 \ud800", level="l" * 99)
    found = store.jobs.get(job.id)
    assert found.progress is not None
    assert (found.progress["loss"], found.progress["all"], len(found.stage or "")) == (None, [1.0, None], 16)
    event = store.events.of(job.id)[0][-1]
    assert (event.message, len(event.type), len(event.level)) == ("tail\ufffd ?", 64, 16)
    for odd in ("adapt_\0", "\ud800"):
        with pytest.raises(NotFoundError):
            store.jobs.get(odd)
        with pytest.raises(NotFoundError):
            store.events.of(odd)


def test_labels_are_compared_and_never_part_of_a_query(store: JobStore) -> None:
    labels = {'a"b': "1", "$.c": "2", "d[0]": "3", "': --": "4"}
    job, _ = store.jobs.create(config("a"), labels=labels)
    store.jobs.create(config("b"), labels={"other": "1"})
    for key, value in labels.items():
        assert [found.id for found in store.jobs.page(labels={key: value})[0]] == [job.id]
        assert store.jobs.page(labels={key: "no"})[0] == []


def test_times_after_2038_fit(store: JobStore, clock: Clock) -> None:
    clock.now = 2.0**31 + 10
    job, _ = store.jobs.create(config())
    claimed = store.leases.claim(max_running=1)
    assert claimed is not None
    assert claimed.started_at == job.created_at == 2**31 + 10
