"""The webhook outbox: written with the move it tells about, and what becomes of each delivery."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from store_helpers import Clock, config

from eda_service.errors import ConflictError, NotFoundError
from eda_service.jobstore import Delivery, Job, JobStore, Status
from eda_service.jobstore.models import JobRow, OutboxRow

HOOK = {"url": "https://hooks.example/x?y=1", "secret": "whsec_c2VjcmV0"}


def running(store: JobStore, model: str = "org/model", webhook: dict[str, Any] | None = HOOK) -> Job:
    store.jobs.create(config(model), webhook=webhook, labels={"team": "math"}, force=True)
    claimed = store.leases.claim(max_running=10)
    assert claimed is not None
    return claimed


def ended(store: JobStore, model: str = "org/model") -> Delivery:
    job = running(store, model)
    store.jobs.transition(job.id, Status.SUCCEEDED, event="job_succeeded", message="m", result_pack="p@1")
    return store.outbox.due()[-1]


def types(store: JobStore, job_id: str) -> list[str]:
    return [event.type for event in store.events.of(job_id)[0]]


def test_the_end_of_a_job_is_told_once(store: JobStore, clock: Clock) -> None:
    job = running(store)
    assert store.outbox.due() == []
    clock.now += 7
    store.jobs.transition(job.id, Status.SUCCEEDED, event="job_succeeded", message="m", result_pack="p@1")
    (due,) = store.outbox.due()
    assert (due.job_id, due.url, due.secret, due.attempts) == (job.id, HOOK["url"], HOOK["secret"], 0)
    assert due.payload == {
        "type": "adaptation.succeeded",
        "timestamp": "1970-01-12T13:46:47Z",
        "data": {
            "id": job.id,
            "object": "adaptation.job",
            "status": "succeeded",
            "model": "org/model",
            "result_pack": "p@1",
            "error": None,
            "metadata": {"team": "math"},
            "created_at": 1_000_000,
            "finished_at": 1_000_007,
        },
    }
    with store.database.read() as session:
        (row,) = session.scalars(select(OutboxRow))
    assert row.event_id == store.events.of(job.id)[0][-1].id


@pytest.mark.parametrize(
    ("moves", "told"),
    [
        ([Status.FAILED], ["failed"]),
        ([Status.CANCELLING, Status.CANCELLED], ["cancelled"]),
        ([Status.CANCELLING, Status.SUCCEEDED], ["succeeded"]),
        ([Status.QUEUED], []),
        ([Status.FAILED, Status.QUEUED], ["failed"]),
        ([Status.FAILED, Status.QUEUED, Status.CANCELLED], ["failed", "cancelled"]),
    ],
    ids=str,
)
def test_each_end_has_its_row(store: JobStore, moves: list[Status], told: list[str]) -> None:
    job = running(store)
    error = {"code": "internal", "message": "m", "param": None, "retryable": False}
    for move in moves:
        store.jobs.transition(job.id, move, event="x", message="x", error=error if move is Status.FAILED else None)
    due = store.outbox.due()
    assert [each.payload["type"] for each in due] == [f"adaptation.{word}" for word in told]
    assert [each.payload["data"]["error"] for each in due] == [error if word == "failed" else None for word in told]


def test_a_refused_move_tells_nothing(store: JobStore) -> None:
    job = running(store)
    with pytest.raises(ConflictError):
        store.jobs.transition(job.id, Status.CANCELLED, event="x", message="x")
    with pytest.raises(ConflictError):
        store.jobs.transition(job.id, Status.SUCCEEDED, event="x", message="x", token=99)
    assert store.outbox.due() == []


def test_a_job_without_a_webhook_has_no_row(store: JobStore) -> None:
    job = running(store, webhook=None)
    store.jobs.transition(job.id, Status.SUCCEEDED, event="x", message="x")
    assert store.outbox.due() == []
    assert store.jobs.get(job.id).webhook_url is None


def test_a_secret_is_optional_and_is_not_printed(store: JobStore) -> None:
    job = running(store, webhook={"url": "https://hooks.example/x"})
    store.jobs.transition(job.id, Status.SUCCEEDED, event="x", message="x")
    assert store.outbox.due()[0].secret is None
    due = ended(store, "other")
    assert HOOK["secret"] not in repr(due)
    assert HOOK["secret"] not in store.jobs.get(due.job_id).model_dump_json()


def test_delivered_is_the_end(store: JobStore) -> None:
    due = ended(store)
    store.outbox.delivered(due.id)
    store.outbox.delivered(due.id)  # another sender was as fast
    store.outbox.failed(due.id, "timeout", not_before=0)
    store.outbox.gave_up(due.id, "timeout")
    assert store.outbox.due() == []
    assert types(store, due.job_id)[-2:] == ["job_succeeded", "webhook_delivered"]


def test_a_failure_is_tried_again_later_and_given_up_in_the_end(store: JobStore, clock: Clock) -> None:
    due = ended(store)
    store.outbox.failed(due.id, "503 " + "x" * 900, not_before=int(clock.now) + 10)
    assert store.outbox.due() == []
    clock.now += 10
    (again,) = store.outbox.due()
    assert (again.id, again.attempts, again.payload) == (due.id, 1, due.payload)
    failed = store.events.of(due.job_id)[0][-1]
    assert (failed.type, failed.level) == ("webhook_failed", "warning")
    assert failed.message.startswith("try 1: 503 xxx")
    assert failed.message.endswith("; next in 10 s")
    assert len(failed.message) < 600
    store.outbox.gave_up(due.id, "410 gone")
    assert store.outbox.due() == []
    gave_up = store.events.of(due.job_id)[0][-1]
    assert (gave_up.type, gave_up.level, gave_up.message) == ("webhook_gave_up", "error", "try 2, the last: 410 gone")


def test_due_ones_come_oldest_first_and_bounded(store: JobStore) -> None:
    wanted = [ended(store, f"m{n}").id for n in range(4)]
    assert [each.id for each in store.outbox.due()] == wanted
    assert [each.id for each in store.outbox.due(limit=2)] == wanted[:2]
    assert [store.outbox.num_due(limit) for limit in (2, 9)] == [2, 4]


def test_no_owner_keeps_anothers_from_being_sent(store: JobStore) -> None:
    """However many one has whose receivers take their time, and however old they are."""
    for number in range(24):
        store.jobs.create(config(f"m{number}"), webhook=HOOK, owner="ada" if number < 23 else "bob")
        claimed = store.leases.claim(max_running=99)
        assert claimed is not None
        store.jobs.transition(claimed.id, Status.SUCCEEDED, event="job_succeeded", message="m", result_pack="p@1")
    found = [store.jobs.get(each.job_id).owner for each in store.outbox.due(limit=20, per_owner=4)]
    assert found == ["ada", "bob", "ada", "ada", "ada"]
    due = [each.id for each in store.outbox.due(per_owner=4) if store.jobs.get(each.job_id).owner == "ada"]
    for each in due:
        store.outbox.delivered(each)
    assert not set(due) & {each.id for each in store.outbox.due()}


def test_a_secret_lies_sealed_and_equal_requests_still_meet(store: JobStore) -> None:
    first, made = store.jobs.create(config(), webhook=HOOK)
    assert (store.jobs.create(config(), webhook=HOOK), made) == ((first, False), True)
    store.jobs.transition(first.id, Status.CANCELLED, event="job_cancelled", message="m")
    with store.database.read() as session:
        lying = [*session.scalars(select(OutboxRow.secret)), session.scalars(select(JobRow.webhook)).one()["secret"]]
    assert [HOOK["secret"] in text for text in lying] == [False, False]
    assert store.outbox.due()[0].secret == HOOK["secret"]
    assert store.outbox.seal_secrets() == 0


def test_an_unknown_delivery_is_an_error(store: JobStore) -> None:
    with pytest.raises(NotFoundError, match="no webhook delivery 77"):
        store.outbox.delivered(77)
