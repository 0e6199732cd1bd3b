"""The events of a job, in order: those of the service, and those that the job's driver wrote to its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import func, select

from eda_service.errors import ConflictError
from eda_service.jobstore import rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.jobs.job import Event
from eda_service.jobstore.models import EventRow

_LATE = 100  # number of ids, on PostgreSQL; see `last_id`


class EventLog(Part):
    """Writes and reads events. Those of one job become visible in the order of their ids, so a reader that continues
    after the last id it saw misses none.
    """

    def bring_in(
        self, job_id: str, lines: Iterable[Mapping[str, Any]], *, start: int, token: int | None = None
    ) -> list[Mapping[str, Any]]:
        """Append lines of `events.jsonl` from index `start` on; lines that were imported before are left out.

        Returns:
            The lines that are new.

        Raises:
            NotFoundError: The job does not exist.
            LeaseLostError: The lease has another token by now.
            ConflictError: Lines between the last import and `start` are missing.
        """
        with self._write.begin() as session:
            row = rows.find(session, job_id, token=token, lock=True)
            if start > row.events_read:
                raise ConflictError(
                    f"events of {job_id} start at line {start}, but only {row.events_read} were imported; "
                    f"read the file from line {row.events_read}"
                )
            fresh = list(lines)[row.events_read - start :]
            for line in fresh:
                rows.add_event(
                    session, row, line["at"], line["type"], line["message"], level=line["level"], stage=line["stage"]
                )
            row.events_read += len(fresh)
        return fresh

    def add(self, job_id: str, kind: str, message: str, *, level: str = "info", token: int | None = None) -> None:
        """Append one event of the service itself.

        Raises:
            NotFoundError: The job does not exist.
            LeaseLostError: The lease has another token by now.
        """
        with self._write.begin() as session:
            row = rows.find(session, job_id, token=token, lock=True)
            rows.add_event(session, row, self._now(), kind, message, level=level)

    def of(
        self, job_id: str, *, owner: str | None = None, after: int = 0, limit: int = 100
    ) -> tuple[list[Event], bool]:
        """List the events of a job with an id above `after`, oldest first, and return whether there are more.

        Raises:
            NotFoundError: The owner has no such job.
        """
        query = select(EventRow).where(EventRow.job_id == job_id, EventRow.id > after).order_by(EventRow.id)
        with self._read() as session:
            rows.find(session, job_id, owner=owner)
            found = session.scalars(query.limit(limit + 1)).all()
            return [self._reader.reduced(Event, row) for row in found[:limit]], len(found) > limit

    def newest(
        self, job_id: str, *, owner: str | None = None, before: int = 0, limit: int = 100
    ) -> tuple[list[Event], bool]:
        """List the events of a job with an id below `before` (0: all), newest first, and return whether there are more.

        Raises:
            NotFoundError: The owner has no such job.
        """
        query = select(EventRow).where(EventRow.job_id == job_id).order_by(EventRow.id.desc())
        if before:
            query = query.where(EventRow.id < before)
        with self._read() as session:
            rows.find(session, job_id, owner=owner)
            found = session.scalars(query.limit(limit + 1)).all()
            return [self._reader.reduced(Event, row) for row in found[:limit]], len(found) > limit

    def jobs_with(self, *, after: int) -> set[str]:
        """Return the jobs of the events that became visible since `after` was the highest id; perhaps some more."""
        first = after - _LATE if self.backend == "postgresql" else after
        with self._read() as session:
            return set(session.scalars(select(EventRow.job_id).where(EventRow.id > first).distinct()))

    def last_id(self) -> int:
        """Return the highest id of any job's events; a larger one means that there are new events. On PostgreSQL an
        event of another job with a lower id may still become visible after it.
        """
        with self._read() as session:
            return session.scalar(select(func.max(EventRow.id))) or 0
