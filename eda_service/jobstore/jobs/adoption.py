"""Jobs without a row: started on the cluster by hand, or known by their files alone since the row was lost.

A row is lost when somebody restores an older copy of the database, or deletes it. What the job wrote is there still:
its run directory, its pack, or its events. Each is made a row again, which says so in an event.
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
    """What a job's files keep of its row beside the values of a job.

    Attributes:
        webhook: Its URL and its sealed secret.
        content_sha256: Hash of what was asked for.
    """

    webhook: Mapping[str, object] | None
    content_sha256: str


class Adoption(Part):
    """Making rows of what was found. A job that has a row is left as it is: two dispatchers may find the same."""

    def adopt(self, job_id: str, config: Task, *, created_at: int, owner: str = "local", need: Need = UNKNOWN) -> Job:
        """Record a job that somebody started on the cluster by hand; it is running already."""
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
        """Make the row of a run directory again, as one that runs: its result, or Ray's word, decides what follows.

        Args:
            job_id: Name of the directory.
            config: As it was queued.
            created_at: When, in seconds since the epoch.
            owner: Whose it is.
            labels: The owner's pairs.
            priority: In the queue, if it goes back there.
            max_attempts: Before a retryable failure is final.
            stage_deadlines: Stage to its longest time, in seconds.
            webhook: With its secret sealed.
            content_sha256: Hash of what was asked for; empty: of the config alone.
            attempt: The newest.
            lines: Of `events.jsonl`; those that are in the table already are not imported again.
            why: For the event.
            need: What it asks the cluster for.

        Returns:
            Whether the row was made by this call.
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
        """Make a row of a pack whose job left nothing else; whether it was made by this call."""
        with self._write.begin() as session:
            if _known(session, job_id) is not None:
                return False
            row = self._insert(session, job_id, config, "api", "local", created_at)
            row.status, row.result_pack, row.finished_at = Status.SUCCEEDED.value, pack, created_at
            rows.add_event(session, row, self._now(), "job_adopted", why, level="warning")
            return True

    def adopt_events(self, job_id: str, *, why: str) -> bool:
        """Make a row of events whose job left nothing else; it has failed, as nobody knows what it was to do."""
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
        """What `adopt_run` needs of a job and no value of it holds: its webhook, the secret sealed, and its hash."""
        with self._read() as session:
            row = rows.find(session, job_id)
            webhook = row.webhook if isinstance(row.webhook, dict) else None
            if webhook is not None and webhook.get("secret") is not None and not is_sealed(str(webhook["secret"])):
                webhook = None  # of a version before, and this process has no keys
            return {"webhook": webhook, "content_sha256": row.content_sha256}

    def events_without_job(self) -> list[str]:
        """Ids of jobs that have events and no row."""
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
    """How many lines of a driver's events, from the first on, are in the table."""
    stored = select(EventRow.at, EventRow.type, EventRow.message).where(EventRow.job_id == job_id)
    known = {tuple(each) for each in session.execute(stored)}
    for place, line in enumerate(lines):
        if (line.get("at"), line.get("type"), rows.clean_text(str(line.get("message")))) not in known:
            return place
    return len(lines)
