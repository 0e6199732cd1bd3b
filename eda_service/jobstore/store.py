"""The job store: every change of state and the event that tells of it are one transaction.

It knows nothing of Ray, files or HTTP. Methods take and return frozen values; a session never leaves this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import sessionmaker

from eda_service.config import AdaptConfig
from eda_service.errors import ConflictError
from eda_service.jobstore import rows
from eda_service.jobstore.engine import open_engine, reader
from eda_service.jobstore.ids import new_job_id
from eda_service.jobstore.job import Deployment, Event, Job
from eda_service.jobstore.models import Base, DeploymentRow, EventRow, IdempotencyRow, JobRow
from eda_service.jobstore.status import TERMINAL, Status, require_legal

_OCCUPYING = (Status.RUNNING.value, Status.CANCELLING.value)


class JobStore:
    """Durable queue over one database.

    Args:
        url: SQLAlchemy URL, e.g. `sqlite:////home/me/.eda/eda.db`.
        clock: Seconds since the epoch; passed in so that tests choose the time.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = open_engine(url)
        Base.metadata.create_all(self._engine)
        self._write = sessionmaker(self._engine, expire_on_commit=False)
        self._read = sessionmaker(reader(self._engine), expire_on_commit=False)
        self._clock = clock

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    def create(
        self,
        config: AdaptConfig,
        *,
        labels: Mapping[str, str] | None = None,
        priority: int = 50,
        max_attempts: int = 3,
        idempotency_key: str | None = None,
        request_sha256: str = "",
        force: bool = False,
    ) -> tuple[Job, bool]:
        """Queue a job, or return the one that this request already made.

        Args:
            config: What to do.
            labels: The caller's own key-value pairs.
            priority: Higher runs first; equal priorities run in order of arrival.
            max_attempts: Attempts before a retryable failure becomes final.
            idempotency_key: A repeated key returns the first call's job.
            request_sha256: Hash of the request body, so that one key cannot mean two requests.
            force: Queue a new job even when a live one has the same content.

        Returns:
            The job, and whether this call made it.

        Raises:
            ConflictError: The key was used before with another request.
        """
        digest = rows.content_sha256(config)
        with self._write.begin() as session:
            if idempotency_key is not None:
                replay = session.get(IdempotencyRow, idempotency_key)
                if replay is not None:
                    if replay.request_sha256 != request_sha256:
                        raise ConflictError(
                            "this Idempotency-Key was used with another request body; use a new key for a new request",
                            param="Idempotency-Key",
                        )
                    return Job.model_validate(rows.find(session, replay.job_id)), False
            row = None if force else rows.same_content(session, digest)
            made = row is None
            if row is None:
                row = rows.insert(session, new_job_id(self._clock()), config, "api", digest, self._now())
                row.labels, row.priority, row.max_attempts = dict(labels or {}), priority, max_attempts
                rows.add_event(session, row, self._now(), "job_created", "queued")
            if idempotency_key is not None:
                session.flush()
                session.add(
                    IdempotencyRow(
                        key=idempotency_key, job_id=row.id, request_sha256=request_sha256, created_at=self._now()
                    )
                )
            session.flush()
            return Job.model_validate(row), made

    def adopt(self, job_id: str, config: AdaptConfig, *, created_at: int) -> Job:
        """Record a job that somebody started on the cluster by hand; it is running already."""
        with self._write.begin() as session:
            row = rows.insert(session, job_id, config, "ray", rows.content_sha256(config), self._now())
            row.status, row.attempt, row.max_attempts = Status.RUNNING.value, 1, 1
            row.created_at = row.started_at = row.submitted_at = created_at
            rows.add_event(session, row, self._now(), "job_adopted", "found on the cluster, started without the API")
            session.flush()
            return Job.model_validate(row)

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            NotFoundError: No such job.
        """
        with self._read() as session:
            return Job.model_validate(rows.find(session, job_id))

    def page(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        status: Status | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> tuple[list[Job], bool]:
        """Jobs, newest first, and whether there are more.

        Raises:
            NotFoundError: `after` is no job.
        """
        query = select(JobRow).order_by(JobRow.seq.desc())
        if status is not None:
            query = query.where(JobRow.status == status.value)
        for key, value in (labels or {}).items():
            query = query.where(JobRow.labels[key].as_string() == value)
        with self._read() as session:
            if after is not None:
                query = query.where(JobRow.seq < rows.find(session, after).seq)
            found = session.scalars(query.limit(limit + 1)).all()
            return [Job.model_validate(row) for row in found[:limit]], len(found) > limit

    def occupying(self) -> list[Job]:
        """Jobs that are running or being cancelled, oldest first."""
        with self._read() as session:
            found = session.scalars(select(JobRow).where(JobRow.status.in_(_OCCUPYING)).order_by(JobRow.seq))
            return [Job.model_validate(row) for row in found]

    def known_ids(self) -> set[str]:
        """Ids of every job there ever was."""
        with self._read() as session:
            return set(session.scalars(select(JobRow.id)))

    def counts(self) -> dict[str, int]:
        """Number of jobs per status."""
        with self._read() as session:
            found = session.execute(select(JobRow.status, func.count()).group_by(JobRow.status)).all()
            return {status: int(count) for status, count in found}

    def claim(self, *, max_running: int) -> Job | None:
        """Move the next queued job to running as its next attempt; None when there is none or no room for it."""
        with self._write.begin() as session:
            occupied = session.scalar(select(func.count()).where(JobRow.status.in_(_OCCUPYING))) or 0
            if occupied >= max_running:
                return None
            row = session.scalars(
                select(JobRow)
                .where(JobRow.status == Status.QUEUED.value, JobRow.not_before <= self._now())
                .order_by(JobRow.priority.desc(), JobRow.seq)
                .limit(1)
            ).first()
            if row is None:
                return None
            row.status, row.attempt = Status.RUNNING.value, row.attempt + 1
            row.submitted_at, row.started_at = None, row.started_at or self._now()
            rows.add_event(session, row, self._now(), "attempt_started", f"attempt {row.attempt} of {row.max_attempts}")
            session.flush()
            return Job.model_validate(row)

    def transition(
        self,
        job_id: str,
        to: Status,
        *,
        event: str,
        message: str,
        level: str = "info",
        error: Mapping[str, Any] | None = None,
        result_pack: str | None = None,
        not_before: int = 0,
        extra_attempts: int = 0,
        deployment: Deployment | None = None,
    ) -> Job:
        """Make one legal move; the event, and the deployment of a success, are written in the same transaction.

        Raises:
            NotFoundError: No such job.
            ConflictError: The table of moves has no such move.
        """
        with self._write.begin() as session:
            row = rows.find(session, job_id)
            require_legal(job_id, Status(row.status), to)
            row.status, row.not_before = to.value, not_before
            row.error, row.result_pack = (None if error is None else dict(error)), result_pack
            row.finished_at = self._now() if to in TERMINAL else None
            row.max_attempts += extra_attempts
            if to is Status.QUEUED:
                row.stage, row.progress, row.submitted_at = None, None, None
            rows.add_event(session, row, self._now(), event, message, level=level)
            if deployment is not None:
                session.merge(DeploymentRow(**deployment.model_dump()))
            session.flush()
            return Job.model_validate(row)

    def mark_submitted(self, job_id: str) -> None:
        """Ray has accepted the current attempt."""
        with self._write.begin() as session:
            rows.find(session, job_id).submitted_at = self._now()

    def record_progress(self, job_id: str, progress: Mapping[str, Any]) -> None:
        """Copy a heartbeat into the row; its `stage` becomes the job's."""
        with self._write.begin() as session:
            row = rows.find(session, job_id)
            row.progress, row.stage = dict(progress), str(progress["stage"])

    def import_events(self, job_id: str, lines: Iterable[Mapping[str, Any]], *, start: int) -> None:
        """Append lines of `events.jsonl` from index `start` on; lines that were imported before are left out."""
        with self._write.begin() as session:
            row = rows.find(session, job_id)
            fresh = list(lines)[row.events_read - start :]
            for line in fresh:
                rows.add_event(
                    session, row, line["at"], line["type"], line["message"], level=line["level"], stage=line["stage"]
                )
            row.events_read += len(fresh)

    def add_event(self, job_id: str, kind: str, message: str, *, level: str = "info") -> None:
        """Append one event of the service itself."""
        with self._write.begin() as session:
            rows.add_event(session, rows.find(session, job_id), self._now(), kind, message, level=level)

    def events(self, job_id: str, *, after: int = 0, limit: int = 100) -> tuple[list[Event], bool]:
        """Events of a job with an id above `after`, oldest first, and whether there are more."""
        query = select(EventRow).where(EventRow.job_id == job_id, EventRow.id > after).order_by(EventRow.id)
        with self._read() as session:
            rows.find(session, job_id)
            found = session.scalars(query.limit(limit + 1)).all()
            return [Event.model_validate(row) for row in found[:limit]], len(found) > limit

    def put_deployment(self, deployment: Deployment) -> None:
        """Insert a deployment, or replace the one of that name."""
        with self._write.begin() as session:
            session.merge(DeploymentRow(**deployment.model_dump()))

    def deployments(self) -> list[Deployment]:
        """Everything Serve must offer, by name."""
        with self._read() as session:
            found = session.scalars(select(DeploymentRow).order_by(DeploymentRow.name))
            return [Deployment.model_validate(row) for row in found]

    def _now(self) -> int:
        return int(self._clock())
