"""Submissions of jobs into the queue by request, with idempotency, deduplication and a quota.

A key that does not exist yet and a count cannot be locked as rows, so each check first takes its advisory lock: of many
equal requests at once, one makes the job and the others wait for it and return it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from eda_service.capacity import UNKNOWN, Need
from eda_service.config.tasks import ID_PREFIXES, Task, kind_of
from eda_service.errors import ConflictError, QuotaExceededError
from eda_service.ids import new_job_id
from eda_service.jobstore import rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.jobs.job import Job
from eda_service.jobstore.jobs.status import Status
from eda_service.jobstore.locks import Space, lock
from eda_service.jobstore.models import IdempotencyRow, JobRow
from eda_service.jobstore.vault import is_sealed, require_vault


class Submissions(Part):
    """Makes jobs."""

    def create(
        self,
        config: Task,
        *,
        owner: str = "local",
        labels: Mapping[str, str] | None = None,
        priority: int = 50,
        max_attempts: int = 3,
        idempotency_key: str | None = None,
        request_sha256: str = "",
        force: bool = False,
        webhook: Mapping[str, Any] | None = None,
        stage_deadlines: Mapping[str, float] | None = None,
        max_queued_per_owner: int | None = None,
        need: Need = UNKNOWN,
        warnings: Sequence[str] = (),
    ) -> tuple[Job, bool]:
        """Queue a job, or return the one that this request already made.

        Args:
            config: Config of the job.
            owner: Owner of the job. Keys, equal content and the quota count within one owner.
            labels: Key-value pairs of the caller.
            priority: Priority; higher runs first, and equal priorities run in order of arrival.
            max_attempts: Number of attempts before a retryable failure becomes final.
            idempotency_key: Key of the request; a repeated key returns the first call's job.
            request_sha256: Hash of the request body, so that one key cannot mean two requests.
            force: Whether to queue a new job even if a live one has the same content. Content is the config, the
                webhook and the deadlines: joining a job without the same webhook would lose the caller's notification.
            webhook: Object `{"url", "secret"}` of the webhook that is sent when the job has ended.
            stage_deadlines: Longest time of each stage, in seconds.
            max_queued_per_owner: Number of queued jobs of the owner at which a new one is refused; None: no limit.
            need: Largest capacity that the job needs of the cluster; unknown counts as fitting.
            warnings: Objections to the job that were overruled; each becomes an event of a new job.

        Returns:
            The job, and whether this call made it.

        Raises:
            ConflictError: The key was used before with another request.
            QuotaExceededError: The owner has too many queued jobs.
        """
        digest = rows.content_sha256(config, stage_deadlines, webhook)
        with self._write.begin() as session:
            if idempotency_key is not None:
                replay = _replayed(session, owner, idempotency_key, request_sha256)
                if replay is not None:
                    return self._reader.reduced(Job, replay), False
            row = None if force else self._joined(session, owner, digest)
            made = row is None
            if row is None:
                require_room(session, owner, max_queued_per_owner)
                job_id = new_job_id(self._database.clock(), prefix=ID_PREFIXES[kind_of(config)])
                row = rows.insert(session, job_id, config, "api", digest, self._now())
                row.owner, row.priority, row.max_attempts = owner, priority, max_attempts
                row.labels = {rows.clean_text(key): rows.clean_text(value) for key, value in (labels or {}).items()}
                row.webhook = self._sealed(webhook)
                row.stage_deadlines = dict(stage_deadlines or {})
                rows.set_need(row, need)
                rows.add_event(session, row, self._now(), "job_created", "queued")
                for warning in warnings:
                    rows.add_event(session, row, self._now(), "queued_all_the_same", warning, level="warning")
            if idempotency_key is not None:
                key = rows.clean_text(idempotency_key)
                session.add(
                    IdempotencyRow(
                        owner=owner, key=key, job_id=row.id, request_sha256=request_sha256, created_at=self._now()
                    )
                )
            session.flush()
            return Job.model_validate(row), made

    def replayed(self, owner: str, idempotency_key: str, request_sha256: str) -> Job | None:
        """Return the job that an earlier request with this key made; None for a new key.

        Raises:
            ConflictError: The key was used before with another request.
        """
        with self._read() as session:
            row = _replay_of(session, owner, rows.clean_text(idempotency_key), request_sha256)
            return None if row is None else self._reader.reduced(Job, row)

    def forget_keys(self, *, before: int) -> int:
        """Remove idempotency keys first used before a time (seconds since the epoch); return their number."""
        with self._write.begin() as session:
            old = delete(IdempotencyRow).where(IdempotencyRow.created_at < before)
            return session.connection().execute(old).rowcount

    def _joined(self, session: Session, owner: str, digest: str) -> JobRow | None:
        lock(session, Space.CONTENT, f"{owner}/{digest}")
        found = rows.same_content(session, owner, digest)
        return None if found is None or self._reader.read(Job, found) is None else found

    def _sealed(self, webhook: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return a webhook with its secret sealed, as the database stores it.

        Raises:
            InputError: The webhook has a secret, and this process has no keys to seal it.
        """
        if webhook is None or webhook.get("secret") is None or is_sealed(webhook["secret"]):
            return None if webhook is None else dict(webhook)
        return {**webhook, "secret": require_vault(self._vault).seal(webhook["secret"])}


def _replayed(session: Session, owner: str, key: str, request_sha256: str) -> JobRow | None:
    key = rows.clean_text(key)
    lock(session, Space.IDEMPOTENCY_KEY, f"{owner}/{key}")
    return _replay_of(session, owner, key, request_sha256)


def _replay_of(session: Session, owner: str, key: str, request_sha256: str) -> JobRow | None:
    replay = session.get(IdempotencyRow, (owner, key))
    if replay is None:
        return None
    row = session.scalars(select(JobRow).where(JobRow.id == replay.job_id)).first()
    if row is None:  # its job is missing in a restored older database: the key is free again
        session.delete(replay)
        session.flush()
        return None
    if replay.request_sha256 != request_sha256:
        raise ConflictError(
            "this Idempotency-Key was used with another request body; use a new key for a new request",
            param="Idempotency-Key",
        )
    return row


def require_room(session: Session, owner: str, limit: int | None) -> None:
    """Lock the owner's queue and check that it may take one more job.

    Raises:
        QuotaExceededError: The owner has `limit` queued jobs.
    """
    if limit is None:
        return
    lock(session, Space.QUOTA, owner)
    queued = select(JobRow.seq).where(JobRow.owner == owner, JobRow.status == Status.QUEUED.value).limit(limit)
    found = session.scalar(select(func.count()).select_from(queued.subquery())) or 0
    if found >= limit:
        raise QuotaExceededError(
            f"{found} jobs of this owner are queued and the limit is {limit}; wait for one to start, or cancel one"
        )
