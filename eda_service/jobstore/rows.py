"""Row-level steps shared by the store's transactions; every function works inside the caller's session."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from eda_service.config import AdaptConfig
from eda_service.errors import NotFoundError
from eda_service.jobstore.job import Origin
from eda_service.jobstore.models import EventRow, JobRow
from eda_service.jobstore.status import Status

# A job that is being cancelled is live but cannot be joined: its caller would get a cancelled job.
_JOINABLE = (Status.QUEUED.value, Status.RUNNING.value)


def content_sha256(config: AdaptConfig) -> str:
    """Hash of everything that decides what a job will do."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def find(session: Session, job_id: str) -> JobRow:
    """The row of a job.

    Raises:
        NotFoundError: No such job.
    """
    row = session.scalars(select(JobRow).where(JobRow.id == job_id)).first()
    if row is None:
        raise NotFoundError(f"no job {job_id[:64]!r}; list the jobs to find its id", param="id")
    return row


def same_content(session: Session, digest: str) -> JobRow | None:
    """The newest live job with this content, if any."""
    joinable = select(JobRow).where(JobRow.status.in_(_JOINABLE), JobRow.origin == "api")
    return session.scalars(joinable.where(JobRow.content_sha256 == digest).order_by(JobRow.seq.desc())).first()


def insert(session: Session, job_id: str, config: AdaptConfig, origin: Origin, digest: str, now: int) -> JobRow:
    """A new queued row with the store's defaults; the caller changes what differs."""
    row = JobRow(
        id=job_id,
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
) -> None:
    """One event of a job, in the transaction of what it tells about."""
    session.flush()  # the event's foreign key needs the job's row
    session.add(EventRow(job_id=row.id, at=at, level=level, type=kind, message=message, stage=stage))
