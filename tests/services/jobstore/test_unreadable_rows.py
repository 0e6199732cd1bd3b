"""Rows that cannot be read, on both databases: what PostgreSQL's types let in is JSON of another shape, and numbers."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from store_helpers import Clock, config

from eda_service.errors import ArtifactCorruptError, ConflictError
from eda_service.jobstore import Deployment, Job, JobStore, Status
from eda_service.jobstore.reading import MALFORMED, from_json

POISONS = [
    ("config", '{"target": {"model": "m"}, "gone": 1}'),
    ("config", "[]"),
    ("config", "5"),
    ("labels", '{"a": {"b": 1}}'),
    ("labels", "[" * 80 + "]" * 80),
    ("stage_deadlines", '{"train": "x"}'),
    ("stage_deadlines", "9" * 5000),
    ("status", "weird"),
    ("origin", "other"),
    ("created_at", "99999999999999"),
    ("events_read", "-1"),
]


def poison(store: JobStore, table: str, column: str, value: str, where: str) -> None:
    kinds = {"config": "JSON", "labels": "JSON", "stage_deadlines": "JSON", "target": "JSON", "payload": "JSON",
             "created_at": "BIGINT", "events_read": "INTEGER", "at": "BIGINT"}  # fmt: skip
    kind = kinds.get(column, "VARCHAR(64)")
    typed = f"CAST(:value AS {kind})" if store.backend == "postgresql" else ":value"
    number: Any = int(value) if column in {"created_at", "events_read", "at"} else value
    with store.database.write.begin() as session:
        session.execute(text(f"UPDATE {table} SET {column} = {typed} WHERE {where}"), {"value": number})


def queued(store: JobStore, *models: str) -> list[Job]:
    return [store.jobs.create(config(model), labels={"team": "math"})[0] for model in models]


@pytest.mark.parametrize(("column", "value"), POISONS)
def test_the_next_job_is_claimed_in_the_same_call(store: JobStore, column: str, value: str) -> None:
    bad, good = queued(store, "bad", "good")
    poison(store, "jobs", column, value, f"id = '{bad.id}'")
    claimed = store.leases.claim(max_running=1)
    assert claimed is not None
    assert claimed.id == good.id
    shown = store.jobs.get(bad.id)
    assert shown.unreadable is not None
    assert column in shown.unreadable
    page, has_more = store.jobs.page(limit=2)
    assert ([each.id for each in page], has_more) == ([good.id, bad.id], False)
    if column != "status":  # one that there is not is in nobody's queue
        assert shown.status is Status.FAILED
        assert (shown.error or {})["code"] == "artifact_corrupt"
        assert [event.type for event in store.events.of(bad.id)[0]] == ["job_created", "job_failed"]
    else:
        with pytest.raises(ArtifactCorruptError):
            store.jobs.transition(bad.id, Status.CANCELLED, event="x", message="x")
        assert store.leases.end_unreadable(holder="d", everything=True) == [f"{bad.id}-a0"]
        assert store.jobs.counts() == {"failed": 1, "running": 1}
    found, _ = store.jobs.page(labels={"team": "math"})
    assert good.id in [each.id for each in found]
    assert store.num_unreadable == ({} if column == "status" else {"jobs": 1})  # its status can be read now


@pytest.mark.parametrize(("column", "value"), [each for each in POISONS if each[0] != "status"])
def test_the_others_are_held_and_its_place_is_free(store: JobStore, clock: Clock, column: str, value: str) -> None:
    bad, good = queued(store, "bad", "good")
    for _ in range(2):
        store.leases.claim(max_running=2, holder="d")
    poison(store, "jobs", column, value, f"id = '{bad.id}'")
    assert [job.id for job in store.leases.hold(holder="d", lease_s=30)] == [good.id]
    assert store.leases.end_unreadable(holder="another") == []  # it may be of a newer version, and read it well
    assert store.leases.end_unreadable(holder="d") == [f"{bad.id}-a1"]
    assert store.leases.end_unreadable(holder="d") == []
    assert [job.id for job in store.leases.occupying()] == [good.id]
    clock.now += 31
    assert [job.id for job in store.leases.hold(holder="another", lease_s=30)] == [good.id]


def test_a_deployment_that_cannot_be_read_is_shown_and_not_written(store: JobStore) -> None:
    for name in ("bad", "good"):
        made = Deployment(name=name, owner="ada", target={"model": "m"}, base_draft="d@1", pack=None)
        store.deployments.put(made, made_by="ada", reason="x")
    poison(store, "deployments", "target", "{}", "name = 'bad'")
    assert [each.name for each in store.deployments.all()] == ["good"]
    shown = store.deployments.all(owner="ada", unreadable=True)
    assert [(each.name, each.unreadable is None) for each in shown] == [("bad", False), ("good", True)]
    with pytest.raises(ConflictError, match="delete the deployment"):
        store.deployments.put(
            store.deployments.get("bad").model_copy(update={"pack": "p@1"}), made_by="ada", reason="x"
        )
    store.deployments.delete("bad", owner="ada")
    assert store.deployments.all(unreadable=True) == store.deployments.all()


def test_a_row_that_can_be_read_again_is_not_counted_any_more(store: JobStore) -> None:
    (job,) = queued(store, "m")
    poison(store, "events", "at", "-5", f"job_id = '{job.id}'")
    (event,) = store.events.of(job.id)[0]
    assert (event.at, event.type, event.unreadable is None) == (0, "job_created", False)
    assert store.num_unreadable == {"events": 1}
    poison(store, "events", "at", "5", f"job_id = '{job.id}'")
    assert store.events.of(job.id)[0][0].at == 5
    assert store.num_unreadable == {}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ('{"a": "\\ud800x"}', {"a": "\ufffdx"}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a": NaN}', {"a": None}),
        ('{"a": ', MALFORMED),
        ("[" * 100_000, MALFORMED),
        ("[" * 70 + "]" * 70, MALFORMED),
        (b"\xff\xfe\x00", MALFORMED),
        (None, MALFORMED),
        ("9" * 5000, MALFORMED),
    ],
)
def test_any_text_is_a_value_or_malformed(given: Any, value: Any) -> None:
    assert from_json(given) == value
