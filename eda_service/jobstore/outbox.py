"""The webhook outbox: the row is written in the transaction of the move it tells about, and sent afterwards.

So a move is never told that did not happen, and none that happened is forgotten. Sending is at least once: a sender
that dies between the answer and `webhook_delivered` sends again, under the same delivery id.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from eda_service.errors import NotFoundError
from eda_service.jobstore import rows
from eda_service.jobstore.database import Database
from eda_service.jobstore.job import Delivery
from eda_service.jobstore.models import EventRow, JobRow, OutboxRow

_MAX_ERROR_CHARACTERS = 500


class Outbox(Database):
    """Webhooks that must be sent, and what became of them."""

    def due_webhooks(self, limit: int = 20) -> list[Delivery]:
        """Webhooks to send now, oldest first. A look only: two senders may both get one."""
        open_ones = select(OutboxRow).where(OutboxRow.delivered_at.is_(None), OutboxRow.gave_up_at.is_(None))
        query = open_ones.where(OutboxRow.not_before <= self._now()).order_by(OutboxRow.id).limit(limit)
        with self._read() as session:
            return [Delivery.model_validate(row) for row in session.scalars(query)]

    def webhook_delivered(self, delivery_id: int) -> None:
        """The receiver took it."""
        with self._write.begin() as session:
            row, job = _open(session, delivery_id)
            if row is None:
                return
            row.attempts, row.delivered_at, row.last_error = row.attempts + 1, self._now(), None
            rows.add_event(session, job, self._now(), "webhook_delivered", f"at try {row.attempts}")

    def webhook_failed(self, delivery_id: int, error: str, *, not_before: int) -> None:
        """A try failed; the next is due at `not_before` (seconds since the epoch)."""
        with self._write.begin() as session:
            row, job = _open(session, delivery_id)
            if row is None:
                return
            row.attempts, row.not_before, row.last_error = row.attempts + 1, not_before, _shorten(error)
            wait_s = max(0, not_before - self._now())
            message = f"try {row.attempts}: {row.last_error}; next in {wait_s} s"
            rows.add_event(session, job, self._now(), "webhook_failed", message, level="warning")

    def webhook_gave_up(self, delivery_id: int, error: str) -> None:
        """The last try failed; it is not sent any more."""
        with self._write.begin() as session:
            row, job = _open(session, delivery_id)
            if row is None:
                return
            row.attempts, row.gave_up_at, row.last_error = row.attempts + 1, self._now(), _shorten(error)
            message = f"try {row.attempts}, the last: {row.last_error}"
            rows.add_event(session, job, self._now(), "webhook_gave_up", message, level="error")


def enqueue(session: Session, row: JobRow, event: EventRow, now: int) -> None:
    """Put the end of a job into the outbox, if it has a webhook."""
    if row.webhook is None:
        return
    session.flush()  # the event's id
    session.add(
        OutboxRow(
            job_id=row.id,
            event_id=event.id,
            url=str(row.webhook["url"]),
            secret=row.webhook.get("secret"),
            payload=_payload(row, now),
            not_before=now,
        )
    )


def _payload(row: JobRow, now: int) -> dict[str, Any]:
    return {
        "type": f"adaptation.{row.status}",
        "timestamp": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
        "data": {
            "id": row.id,
            "object": "adaptation.job",
            "status": row.status,
            "model": row.config["target"]["model"],
            "result_pack": row.result_pack,
            "error": row.error,
            "metadata": row.labels,
            "created_at": row.created_at,
            "finished_at": row.finished_at,
        },
    }


def _open(session: Session, delivery_id: int) -> tuple[OutboxRow | None, JobRow]:
    """The delivery, None once its fate is sealed (by another sender), and its job, locked."""
    job_id = session.scalar(select(OutboxRow.job_id).where(OutboxRow.id == delivery_id))
    if job_id is None:
        raise NotFoundError(f"no webhook delivery {delivery_id}; `due_webhooks` lists them", param="id")
    job = rows.find(session, job_id, lock=True)
    row = session.get_one(OutboxRow, delivery_id)
    is_open = row.delivered_at is None and row.gave_up_at is None
    return (row if is_open else None), job


def _shorten(error: str) -> str:
    return rows.clean_text(error, _MAX_ERROR_CHARACTERS)
