"""The webhook outbox: the row is written in the transaction of the transition it reports, and sent afterwards.

So every transition that happened is reported, and no other. Sending is at least once: a sender that dies between the
answer and `delivered` sends again, under the same delivery id.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, cast, func, or_, outerjoin, select
from sqlalchemy.orm import Session

from eda_service.config.tasks import JobKind
from eda_service.errors import NotFoundError
from eda_service.jobstore import rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.engine import rewrite
from eda_service.jobstore.jobs.job import Delivery
from eda_service.jobstore.models import EventRow, JobRow, OutboxRow
from eda_service.jobstore.row import END_OF_TIME
from eda_service.jobstore.vault import SealedSecretError, is_sealed, require_vault

_MAX_ERROR_CHARACTERS = 500
_MAX_TRIES = 1_000_000
_PLAIN_SECRET = "whsec_"
_SPOKEN_KINDS = {
    JobKind.IMPORT_DRAFT.value: "draft_import",
    JobKind.MEASURE.value: "measurement",
    JobKind.EXPORT.value: "export",
}
"""First part of a message's type, for jobs that are not adaptations."""


class Outbox(Part):
    """Webhooks to be sent, and their results."""

    def due(self, limit: int = 20, *, per_owner: int = 8) -> list[Delivery]:
        """Return webhooks to send now, the oldest of each owner first. This is a query only: two senders may both get
        one.

        No owner has more than `per_owner` of them, so an owner whose receivers are slow, or whose rows cannot be
        written, delays others only by these few.

        A webhook that can never be sent, because its row cannot be read or its secret cannot be opened, is included:
        its `unreadable` has the reason, and the caller gives it up.
        """
        place = func.row_number().over(partition_by=JobRow.owner, order_by=OutboxRow.id).label("place")
        of_owner = outerjoin(OutboxRow, JobRow, JobRow.id == OutboxRow.job_id)
        due = select(OutboxRow.id, place).select_from(of_owner).where(self._is_due()).subquery()
        query = select(OutboxRow).join(due, due.c.id == OutboxRow.id).where(due.c.place <= per_owner)
        query = query.order_by(due.c.place, OutboxRow.id).limit(limit)
        with self._read() as session:
            return [self._opened(self._reader.reduced(Delivery, row)) for row in session.scalars(query)]

    def num_due(self, limit: int) -> int:
        """Count the webhooks to send now, up to a limit; no secret is opened."""
        found = select(OutboxRow.id).where(self._is_due()).limit(limit).subquery()
        with self._read() as session:
            return session.scalar(select(func.count()).select_from(found)) or 0

    def _is_due(self) -> ColumnElement[bool]:
        due = or_(OutboxRow.not_before <= self._now(), OutboxRow.not_before > END_OF_TIME)  # text is largest in SQLite
        return and_(OutboxRow.delivered_at.is_(None), OutboxRow.gave_up_at.is_(None), due)

    def seal_secrets(self) -> int:
        """Seal the secrets that earlier versions stored in plain text; return their number. A second call does nothing.

        On SQLite the file is then rewritten, so that no page keeps the replaced text.

        Raises:
            InputError: Such secrets exist, and this process has no keys.
        """
        sealed = 0
        with self._write.begin() as session:
            plain = cast(JobRow.webhook, Text).contains(_PLAIN_SECRET)
            for job in session.scalars(select(JobRow).where(JobRow.webhook.is_not(None), plain)):
                if isinstance(job.webhook, dict) and _is_plain(job.webhook.get("secret")):
                    vault = require_vault(self._vault)
                    job.webhook = {**job.webhook, "secret": vault.seal(str(job.webhook["secret"]))}
                    sealed += 1
            for row in session.scalars(select(OutboxRow).where(OutboxRow.secret.startswith(_PLAIN_SECRET))):
                row.secret = require_vault(self._vault).seal(str(row.secret))
                sealed += 1
        if sealed and self.backend == "sqlite":
            rewrite(self._database.engine)
        return sealed

    def _opened(self, delivery: Delivery) -> Delivery:
        """Return the delivery with its secret in plain text, as the receiver knows it."""
        if delivery.secret is None or delivery.unreadable is not None or not is_sealed(delivery.secret):
            return delivery
        if self._vault is None:
            return delivery.model_copy(update={"secret": None, "unreadable": "this process opens no secrets"})
        try:
            return delivery.model_copy(update={"secret": self._vault.open(delivery.secret)})
        except SealedSecretError as error:
            return delivery.model_copy(update={"secret": None, "unreadable": error.message})

    def delivered(self, delivery_id: int) -> None:
        """Record that the receiver accepted it."""
        with self._write.begin() as session:
            row, job = _open(session, delivery_id)
            if row is None:
                return
            row.attempts, row.delivered_at, row.last_error = _num_tries(row), self._now(), None
            _tell(session, job, self._now(), "webhook_delivered", f"at try {row.attempts}", "info")

    def failed(self, delivery_id: int, error: str, *, not_before: int) -> None:
        """Record a failed attempt; the next is due at `not_before` (seconds since the epoch)."""
        with self._write.begin() as session:
            row, job = _open(session, delivery_id)
            if row is None:
                return
            row.attempts, row.not_before, row.last_error = _num_tries(row), not_before, _shorten(error)
            wait_s = max(0, not_before - self._now())
            message = f"try {row.attempts}: {row.last_error}; next in {wait_s} s"
            _tell(session, job, self._now(), "webhook_failed", message, "warning")

    def gave_up(self, delivery_id: int, error: str) -> None:
        """Record the last failed attempt; the webhook is not sent any more."""
        with self._write.begin() as session:
            row, job = _open(session, delivery_id)
            if row is None:
                return
            row.attempts, row.gave_up_at, row.last_error = _num_tries(row), self._now(), _shorten(error)
            message = f"try {row.attempts}, the last: {row.last_error}"
            _tell(session, job, self._now(), "webhook_gave_up", message, "error")


def enqueue(session: Session, row: JobRow, event: EventRow, now: int) -> None:
    """Put the end of a job into the outbox, if it has a webhook that can be read."""
    if not isinstance(row.webhook, dict) or "url" not in row.webhook:
        return
    session.flush()  # the event must have its id
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
    target = row.config.get("target") if isinstance(row.config, dict) else None
    return {
        "type": f"{_SPOKEN_KINDS.get(row.kind, 'adaptation')}.{row.status}",
        "timestamp": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
        "data": {
            "id": row.id,
            **_named(row),
            "status": row.status,
            "model": target.get("model") if isinstance(target, dict) else None,
            "error": row.error,
            "metadata": row.labels if isinstance(row.labels, dict) else {},
            "created_at": row.created_at if isinstance(row.created_at, int) else None,
            "finished_at": row.finished_at,
        },
    }


def _named(row: JobRow) -> dict[str, Any]:
    """Return a job's kind and result for the message; an adaptation's has the form from before there
    were other kinds.
    """
    if row.kind not in _SPOKEN_KINDS:
        return {
            "object": "adaptation.job",
            "result_pack": row.result_pack if isinstance(row.result_pack, str) else None,
        }
    return {"object": "job", "kind": row.kind, "result": row.result if isinstance(row.result, str) else None}


def _open(session: Session, delivery_id: int) -> tuple[OutboxRow | None, JobRow | None]:
    """Return the delivery (None if another sender has finished it) and its job, locked (None if it has no row)."""
    job_id = session.scalar(select(OutboxRow.job_id).where(OutboxRow.id == delivery_id))
    if job_id is None:
        raise NotFoundError(f"no webhook delivery {delivery_id}; `due` lists them", param="id")
    job = session.scalars(select(JobRow).where(JobRow.id == job_id).with_for_update(key_share=True)).first()
    row = session.get_one(OutboxRow, delivery_id)
    is_open = row.delivered_at is None and row.gave_up_at is None
    return (row if is_open else None), job


def _is_plain(secret: Any) -> bool:
    return secret is not None and not (isinstance(secret, str) and is_sealed(secret))


def _num_tries(row: OutboxRow) -> int:
    """Count the attempts including this one; an unreadable number, or one too large to increase, counts as 0."""
    return row.attempts + 1 if isinstance(row.attempts, int) and 0 <= row.attempts < _MAX_TRIES else 1


def _tell(session: Session, job: JobRow | None, now: int, kind: str, message: str, level: str) -> None:
    if job is not None:
        rows.add_event(session, job, now, kind, message, level=level)


def _shorten(error: str) -> str:
    return rows.clean_text(error, _MAX_ERROR_CHARACTERS)
