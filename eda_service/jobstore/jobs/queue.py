"""Jobs in the queue: how they come in, looking at them, moving them, and forgetting them.

Every change of state and the event that tells of it are one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import and_, func, or_, select

from eda_service.config.tasks import JobKind
from eda_service.errors import ConflictError, NotFoundError
from eda_service.jobstore import outbox, rows
from eda_service.jobstore.deployments import deployments
from eda_service.jobstore.deployments.deployment import Deployment
from eda_service.jobstore.jobs.job import Job
from eda_service.jobstore.jobs.leases import OCCUPYING
from eda_service.jobstore.jobs.removal import Removal
from eda_service.jobstore.jobs.status import LIVE, TERMINAL, Status, require_legal
from eda_service.jobstore.jobs.submission import Submissions, require_room
from eda_service.jobstore.models import JobRow


class JobQueue(Submissions, Removal):
    """Jobs of every kind."""

    def get(self, job_id: str, *, owner: str | None = None, kind: JobKind | None = None) -> Job:
        """Return one job; of an unreadable row the readable part, and `unreadable` names the missing fields.

        Raises:
            NotFoundError: The owner has no such job of this kind.
        """
        with self._read() as session:
            job = self._reader.reduced(Job, rows.find(session, job_id, owner=owner))
        if kind is not None and job.kind is not kind:
            raise NotFoundError(
                f"job {job.id} is of kind {job.kind.value}, not {kind.value}; GET /v1/jobs/{job.id} shows it",
                param="id",
            )
        return job

    def page(
        self,
        *,
        owner: str | None = None,
        limit: int = 20,
        after: str | None = None,
        status: Status | None = None,
        labels: Mapping[str, str] | None = None,
        kind: JobKind | None = None,
        prefix: str | None = None,
    ) -> tuple[list[Job], bool]:
        """List jobs, newest first, and return whether there are more. An unreadable one is included with its readable
        part.

        Raises:
            NotFoundError: The owner has no job `after`.
        """
        query = select(JobRow).order_by(JobRow.seq.desc())
        if owner is not None:
            query = query.where(JobRow.owner == owner)
        if status is not None:
            query = query.where(JobRow.status == status.value)
        if kind is not None:
            query = query.where(rows.is_of(kind))
        if prefix is not None:  # compared, not matched as a pattern: SQLite's LIKE ignores case
            query = query.where(func.substr(JobRow.id, 1, len(prefix)) == rows.clean_text(prefix))
        for key, value in (labels or {}).items():
            query = query.where(rows.has_label(key, value, self.backend))
        with self._read() as session:
            if after is not None:
                query = query.where(JobRow.seq < rows.find(session, after, owner=owner).seq)
            found = session.scalars(query.limit(limit + 1)).all()
            return [self._reader.reduced(Job, row) for row in found[:limit]], len(found) > limit

    def has(self, job_id: str) -> bool:
        """Whether there is a row of that job, readable or not."""
        with self._read() as session:
            return session.scalar(select(JobRow.seq).where(JobRow.id == rows.clean_text(job_id))) is not None

    def known_ids(self) -> set[str]:
        """Return the ids of all jobs in the database."""
        with self._read() as session:
            return set(session.scalars(select(JobRow.id)))

    def live(self) -> list[Job]:
        """List jobs that are queued, running or being cancelled and can be read, oldest first."""
        query = select(JobRow).where(JobRow.status.in_([each.value for each in LIVE])).order_by(JobRow.seq)
        with self._read() as session:
            return self._reader.read_all(Job, session.scalars(query))

    def counts(self, *, owner: str | None = None, kind: JobKind | None = None) -> dict[str, int]:
        """Count the jobs per status."""
        query = select(JobRow.status, func.count()).group_by(JobRow.status)
        if kind is not None:
            query = query.where(rows.is_of(kind))
        if owner is not None:
            query = query.where(JobRow.owner == owner)
        with self._read() as session:
            found = session.execute(query).all()
            return {status: int(count) for status, count in found if status in set(Status)}

    def place_in_queue(self, job: Job, *, owner: str | None = None) -> tuple[int, int]:
        """Return the place of a queued job among the waiting ones, by priority and then by age, and how many wait.

        Args:
            job: Queued job.
            owner: Owner of the jobs that count; None: all owners.
        """
        waiting = select(func.count()).where(JobRow.status == Status.QUEUED.value)
        if owner is not None:
            waiting = waiting.where(JobRow.owner == owner)
        is_before = or_(JobRow.priority > job.priority, and_(JobRow.priority == job.priority, JobRow.seq < job.seq))
        with self._read() as session:
            return int(session.scalar(waiting.where(is_before)) or 0) + 1, int(session.scalar(waiting) or 0)

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
        result: str | None = None,
        not_before: int = 0,
        extra_attempts: int = 0,
        max_queued_per_owner: int | None = None,
        deployment: Deployment | None = None,
        deployment_kept: str | None = None,
        only_from: Collection[Status] | None = None,
        token: int | None = None,
    ) -> Job:
        """Make one legal transition; event, webhook and the deployment of a success are written in the same
        transaction.

        A transition out of running or cancelling ends the lease; its token stays, so the holder may still add events.
        `deployment_kept` is the reason why the success changes no deployment, and becomes an event of its own.
        `only_from` are the states that the caller means to leave, if the table of transitions allows others.

        Raises:
            NotFoundError: The job does not exist.
            LeaseLostError: The lease has another token by now.
            ConflictError: The table has no such transition, or the job is in none of `only_from`.
            QuotaExceededError: The transition is into the queue, and the owner has `max_queued_per_owner` jobs there.
            StaleDeploymentError: The deployment was changed after `deployment` was made from it.
        """
        with self._write.begin() as session:
            row = rows.find(session, job_id, token=token, lock=True)
            require_legal(job_id, rows.status_of(row), to, only_from=only_from)
            if to is Status.QUEUED:
                require_room(session, row.owner, max_queued_per_owner)
            row.status, row.not_before = to.value, not_before
            row.error = None if error is None else dict(error)
            row.result_pack, row.result = result_pack, result
            row.finished_at = self._now() if to in TERMINAL else None
            row.max_attempts += extra_attempts
            if to.value not in OCCUPYING:
                row.lease_holder, row.lease_until = None, 0
            if to is Status.QUEUED:
                row.stage, row.progress, row.submitted_at, row.ray_session = None, None, None, None
            if deployment_kept is not None:
                rows.add_event(session, row, self._now(), "deployment_kept", deployment_kept, level="warning")
            told = rows.add_event(session, row, self._now(), event, message, level=level)
            if to in TERMINAL:
                outbox.enqueue(session, row, told, self._now())
            if deployment is not None:
                deployments.write(session, deployment, self._now(), made_by=row.owner, reason=message)
            session.flush()
            return self._reader.reduced(Job, row)

    def set_priority(self, job_id: str, priority: int, *, owner: str | None = None) -> Job:
        """Change the priority of a queued job; a higher one runs earlier.

        Raises:
            NotFoundError: The owner has no such job.
            ConflictError: The job is not queued any more.
        """
        with self._write.begin() as session:
            row = rows.find(session, job_id, owner=owner, lock=True)
            if row.status != Status.QUEUED.value:
                raise ConflictError(
                    f"job {job_id} is {row.status}; a priority only counts, and can only be changed, while queued",
                    param="priority",
                )
            message = f"from {row.priority} to {priority}"
            row.priority = priority
            rows.add_event(session, row, self._now(), "priority_changed", message)
            session.flush()
            return self._reader.reduced(Job, row)

    def mark_submitted(self, job_id: str, *, token: int | None = None, ray_session: str | None = None) -> None:
        """Record that Ray has accepted the current attempt, in this session of its head.

        Raises:
            NotFoundError: The job does not exist.
            LeaseLostError: The lease has another token by now.
        """
        with self._write.begin() as session:
            row = rows.find(session, job_id, token=token, lock=True)
            row.submitted_at, row.ray_session = self._now(), ray_session

    def record_progress(self, job_id: str, progress: Mapping[str, Any], *, token: int | None = None) -> None:
        """Copy a heartbeat into the row; its `stage` becomes the job's.

        Raises:
            NotFoundError: The job does not exist.
            LeaseLostError: The lease has another token by now.
        """
        with self._write.begin() as session:
            row = rows.find(session, job_id, token=token, lock=True)
            row.progress, row.stage = dict(progress), rows.clean_text(str(progress["stage"]), 16)
