"""Row-level steps shared by the store's transactions; every function works inside the caller's session."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, case, func, literal_column, select
from sqlalchemy.orm import Session

from eda_service.capacity import Need
from eda_service.config.tasks import JobKind, Task, kind_of
from eda_service.errors import ArtifactCorruptError, LeaseLostError, NotFoundError
from eda_service.jobstore.jobs.job import Origin
from eda_service.jobstore.jobs.status import Status
from eda_service.jobstore.models import EventRow, JobRow

# A job that is being cancelled is live but cannot be joined: its caller would get a cancelled job.
_JOINABLE = (Status.QUEUED.value, Status.RUNNING.value)


def content_sha256(config: Task, *extras: Mapping[str, Any] | None) -> str:
    """Hash everything that decides what a job will do; `extras` are included if there are any."""
    parts = [config.model_dump(mode="json"), *(dict(extra) for extra in extras if extra)]
    text = json.dumps(parts if len(parts) > 1 else parts[0], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def clean_text(text: str, max_characters: int | None = None) -> str:
    """Clean text so that both databases store and compare it: PostgreSQL has no NUL and no half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")[:max_characters]


def find(
    session: Session, job_id: str, *, owner: str | None = None, token: int | None = None, lock: bool = False
) -> JobRow:
    """Find the row of a job.

    Args:
        session: The caller's transaction.
        job_id: Id of the job.
        owner: Required owner of the job; None: any owner.
        token: The caller's fencing token; None: not checked.
        lock: Whether to lock the row for other writers until the end of the transaction. A writer of an event takes
            this lock, so that events of one job become visible in the order of their ids.

    Raises:
        NotFoundError: The job does not exist, or belongs to another owner; the message is the same.
        LeaseLostError: The job's lease has another token by now.
    """
    query = select(JobRow).where(JobRow.id == clean_text(job_id))
    if owner is not None:
        query = query.where(JobRow.owner == owner)
    if lock:
        query = query.with_for_update(key_share=True)
    row = session.scalars(query).first()
    if row is None:
        raise NotFoundError(f"no job {job_id[:64]!r}; GET /v1/jobs lists them", param="id")
    if token is not None and row.lease_token != token:
        raise LeaseLostError(
            f"job {row.id} is leased with token {row.lease_token} to {row.lease_holder or 'nobody'}, not with {token}; "
            "leave it alone until `hold` returns it again",
            param="token",
        )
    return row


def set_need(row: JobRow, need: Need) -> None:
    """Store the capacity that a job needs of the cluster in its row."""
    row.cpus, row.gpus = need.at_once.cpus, need.at_once.gpus
    row.node_cpus, row.node_gpus = need.of_one_node.cpus, need.of_one_node.gpus


def status_of(row: JobRow) -> Status:
    """Return a job's status.

    Raises:
        ArtifactCorruptError: The row has an unknown status.
    """
    try:
        return Status(row.status)
    except ValueError as error:
        raise ArtifactCorruptError(
            f"the row of job {row.id} has a status that there is not; the dispatcher ends the job within the hour"
        ) from error


def same_content(session: Session, owner: str, digest: str) -> JobRow | None:
    """Return the owner's newest live job with this content, if any."""
    equal = select(JobRow).where(JobRow.owner == owner, JobRow.content_sha256 == digest, JobRow.origin == "api")
    # These are few rows, so they are sorted here: an ORDER BY would make SQLite scan all of the owner's jobs in order.
    found = session.scalars(equal.where(JobRow.status.in_(_JOINABLE))).all()
    return max(found, key=lambda row: row.seq, default=None)


def is_of(kind: JobKind) -> ColumnElement[bool]:
    """Make the condition on a job of one kind; a row of an unknown kind counts as an adaptation, as it is read."""
    if kind is not JobKind.ADAPT:
        return JobRow.kind == kind.value
    return JobRow.kind.not_in([each.value for each in JobKind if each is not kind])


def has_label(key: str, value: str, backend: str) -> ColumnElement[bool]:
    """Make the condition `metadata[key] = value`; keys are free text, so they are compared and never part of a JSON
    path.
    """
    if backend == "sqlite":
        is_object, unpack = func.json_valid(JobRow.labels) == 1, func.json_each
    else:
        is_object, unpack = func.json_typeof(JobRow.labels) == "object", func.json_each_text
    # One row whose labels are no object must not end the queries of other owners.
    pairs = unpack(case((is_object, JobRow.labels), else_=literal_column("'{}'"))).table_valued("key", "value")
    return select(pairs.c.key).where(pairs.c.key == clean_text(key), pairs.c.value == clean_text(value)).exists()


def insert(session: Session, job_id: str, config: Task, origin: Origin, digest: str, now: int) -> JobRow:
    """Insert a new queued row with the store's defaults; the caller changes what differs."""
    row = JobRow(
        id=job_id,
        kind=kind_of(config).value,
        status=Status.QUEUED.value,
        origin=origin,
        config=config.model_dump(mode="json"),
        content_sha256=digest,
        labels={},
        priority=50,
        max_attempts=1,
        created_at=now,
    )
    session.add(row)
    return row


def add_event(
    session: Session,
    row: JobRow,
    at: int,
    kind: str,
    message: str,
    *,
    level: str = "info",
    stage: str | None = None,
) -> EventRow:
    """Add an event of a job, in the transaction of the change that it reports."""
    if row.seq is None:
        session.flush()  # the event's foreign key needs the job's row
    event = EventRow(
        job_id=row.id,
        at=at,
        level=clean_text(level, 16),
        type=clean_text(kind, 64),
        message=clean_text(message),
        stage=None if stage is None else clean_text(stage, 16),
    )
    session.add(event)
    return event
