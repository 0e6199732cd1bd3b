"""Removal of a job that has ended: its row, its events, its finished webhooks, and its idempotency keys."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import delete, select, update

from eda_service.errors import ConflictError
from eda_service.jobstore import rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.jobs.status import TERMINAL
from eda_service.jobstore.models import DeploymentRow, EventRow, IdempotencyRow, OutboxRow, RevisionRow


class Removal(Part):
    """Deletes rows of jobs."""

    def remove(self, job_id: str, *, owner: str | None, forget: Callable[[], None]) -> None:
        """Delete everything about a job that has ended.

        Args:
            job_id: Id of the job.
            owner: Owner of the job; None: any owner.
            forget: Function called last, before the commit: after it the job's files no longer count as a job.

        Raises:
            NotFoundError: The owner has no such job.
            ConflictError: The job has not ended, a deployment was made by it, or its webhook is being sent.
        """
        with self._write.begin() as session:
            row = rows.find(session, job_id, owner=owner, lock=True)
            if rows.status_of(row) not in TERMINAL:
                raise ConflictError(f"job {row.id} is {row.status}; cancel it and wait for its end first", param="id")
            deployed = session.scalar(select(DeploymentRow.name).where(DeploymentRow.job_id == row.id).limit(1))
            if deployed is not None:
                raise ConflictError(
                    f"deployment {deployed} was made by job {row.id}; remove the deployment first, or keep the job",
                    param="id",
                )
            waiting = select(OutboxRow.id).where(OutboxRow.job_id == row.id)
            unsent = waiting.where(OutboxRow.delivered_at.is_(None), OutboxRow.gave_up_at.is_(None)).limit(1)
            if session.scalar(unsent) is not None:
                raise ConflictError(f"the webhook of job {row.id} is still being sent; try again later", param="id")
            session.execute(update(RevisionRow).where(RevisionRow.job_id == row.id).values(job_id=None))
            for kind in (OutboxRow, IdempotencyRow, EventRow):
                session.execute(delete(kind).where(kind.job_id == row.id))
            session.delete(row)
            session.flush()
            forget()
