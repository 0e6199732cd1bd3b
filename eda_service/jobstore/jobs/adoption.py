"""Adoption of jobs without a row: started on the cluster by hand, or known only by their files because the row was
lost.

A row is lost when an older copy of the database is restored, or when it is deleted. The job's output still exists: its
run directory, its pack, or its events. Each becomes a row again, with an event that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from sqlalchemy import select
from sqlalchemy.orm import Session

from eda_service.capacity import UNKNOWN, Need
from eda_service.config.job import AdaptConfig
from eda_service.config.tasks import Task
from eda_service.errors import ArtifactCorruptError
from eda_service.jobstore import rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.jobs.job import UNREADABLE, Job, Origin
from eda_service.jobstore.jobs.status import Status
from eda_service.jobstore.locks import Space, lock
from eda_service.jobstore.models import EventRow, JobRow
from eda_service.jobstore.vault import is_sealed


class KeptRowFields(TypedDict):
    """Facts of a job's row that are kept in its files and are not values of a job.

    Attributes:
        webhook: URL and sealed secret of the webhook.
        content_sha256: Hash of the request's content.
    """

    webhook: Mapping[str, object] | None
    content_sha256: str


class Adoption(Part):
    """Makes rows for jobs that were found. A job that has a row is unchanged: two dispatchers may find the same."""

    def adopt(self, job_id: str, config: Task, *, created_at: int, owner: str = "local", need: Need = UNKNOWN) -> Job:
        """Record a job that was started on the cluster by hand; it is running already."""
        with self._write.begin() as session:
            known = _known(session, job_id)
            if known is not None:
                return self._reader.reduced(Job, known)
            row = self._insert(session, job_id, config, "ray", owner, created_at)
            row.max_attempts, row.submitted_at = 1, created_at
            rows.set_need(row, need)
            rows.add_event(session, row, self._now(), "job_adopted", "found on the cluster, started without the API")
            session.flush()
            return Job.model_validate(row)

    def adopt_run(
        self,
        job_id: str,
        config: Task,
        *,
        created_at: int,
        owner: str,
        labels: Mapping[str, str],
        priority: int,
        max_attempts: int,
        stage_deadlines: Mapping[str, float],
        webhook: Mapping[str, Any] | None,
        content_sha256: str,
        attempt: int,
        lines: Sequence[Mapping[str, Any]],
        why: str,
        need: Need = UNKNOWN,
    ) -> bool:
        """Restore the row of a run directory, as a running job: its result, or Ray's status, decides the next state.

        Args:
            job_id: Id of the job and name of the directory.
            config: Config as it was queued.
            created_at: Time of creation, in seconds since the epoch.
            owner: Owner of the job.
            labels: Key-value pairs of the owner.
            priority: Priority in the queue, if it returns there.
            max_attempts: Largest number of attempts; after it a retryable failure is final.
            stage_deadlines: Longest time of each stage, in seconds.
            webhook: Webhook with its secret sealed.
            content_sha256: Hash of the request's content; empty: of the config alone.
            attempt: Number of the newest attempt.
            lines: Lines of `events.jsonl`; those already in the table are not imported again.
            why: Reason of the adoption, for the event.
            need: Capacity that it needs of the cluster.

        Returns:
            Whether this call made the row.
        """
        with self._write.begin() as session:
            if _known(session, job_id) is not None:
                return False
            row = self._insert(session, job_id, config, "api", owner, created_at)
            row.labels, row.priority, row.max_attempts = dict(labels), priority, max_attempts
            row.stage_deadlines, row.webhook = dict(stage_deadlines), None if webhook is None else dict(webhook)
            row.attempt, row.submitted_at = attempt, self._now()  # the grace period of a lost attempt starts now
            row.content_sha256 = content_sha256 or row.content_sha256
            rows.set_need(row, need)
            row.events_read = _num_imported(session, job_id, lines)
            rows.add_event(session, row, self._now(), "job_adopted", why, level="warning")
            return True

    def adopt_pack(self, job_id: str, config: AdaptConfig, pack: str, *, created_at: int, why: str) -> bool:
        """Make a row for a pack whose job left nothing else; return whether this call made it."""
        with self._write.begin() as session:
            if _known(session, job_id) is not None:
                return False
            row = self._insert(session, job_id, config, "api", "local", created_at)
            row.status, row.result_pack, row.finished_at = Status.SUCCEEDED.value, pack, created_at
            rows.add_event(session, row, self._now(), "job_adopted", why, level="warning")
            return True

    def adopt_events(self, job_id: str, *, why: str) -> bool:
        """Make a row for events whose job left nothing else; it has failed, as its config is unknown."""
        with self._write.begin() as session:
            if _known(session, job_id) is not None:
                return False
            config = AdaptConfig.model_validate({"target": {"model": UNREADABLE}})
            row = self._insert(session, job_id, config, "api", "local", self._now())
            row.status, row.finished_at = Status.FAILED.value, self._now()
            row.error = {"code": ArtifactCorruptError.code, "message": why, "param": None, "retryable": False}
            rows.add_event(session, row, self._now(), "job_adopted", why, level="warning")
            return True

    def kept_row_fields(self, job_id: str) -> KeptRowFields:
        """Return the facts that `adopt_run` needs and that are not values of a job: webhook with sealed secret, and
        hash.
        """
        with self._read() as session:
            row = rows.find(session, job_id)
            webhook = row.webhook if isinstance(row.webhook, dict) else None
            if webhook is not None and webhook.get("secret") is not None and not is_sealed(str(webhook["secret"])):
                webhook = None  # written by an earlier version, and this process has no keys
            return {"webhook": webhook, "content_sha256": row.content_sha256}

    def events_without_job(self) -> list[str]:
        """List the ids of jobs that have events and no row."""
        nobody = select(JobRow.seq).where(JobRow.id == EventRow.job_id).exists()
        with self._read() as session:
            return sorted(session.scalars(select(EventRow.job_id).where(~nobody).distinct()))

    def _insert(
        self, session: Session, job_id: str, config: Task, origin: Origin, owner: str, created_at: int
    ) -> JobRow:
        row = rows.insert(session, job_id, config, origin, rows.content_sha256(config), self._now())
        row.owner, row.status, row.attempt = owner, Status.RUNNING.value, 1
        row.created_at = row.started_at = created_at
        return row


def _known(session: Session, job_id: str) -> JobRow | None:
    lock(session, Space.ADOPT, job_id)
    return session.scalars(select(JobRow).where(JobRow.id == job_id)).first()


def _num_imported(session: Session, job_id: str, lines: Sequence[Mapping[str, Any]]) -> int:
    """Count the lines of a driver's events, from the first on, that are in the table."""
    stored = select(EventRow.at, EventRow.type, EventRow.message).where(EventRow.job_id == job_id)
    known = {tuple(each) for each in session.execute(stored)}
    for place, line in enumerate(lines):
        if (line.get("at"), line.get("type"), rows.clean_text(str(line.get("message")))) not in known:
            return place
    return len(lines)
