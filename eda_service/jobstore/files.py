"""Uploaded prompt files: their owners and names. Their bytes are not in the database."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Text, cast, func, select
from sqlalchemy.orm import Session

from eda_service.errors import ConflictError, NotFoundError, QuotaExceededError
from eda_service.jobstore import rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.jobs.job import StoredFile
from eda_service.jobstore.jobs.status import LIVE
from eda_service.jobstore.locks import Space, lock
from eda_service.jobstore.models import FileRow, JobRow

_MAX_TOLD = 3
_MAX_BYTES = 1 << 50  # no file is larger; a damaged row with a larger number would make the sum of all overflow


class FileStore(Part):
    """Rows of uploaded files."""

    def add(
        self,
        file_id: str,
        *,
        owner: str,
        filename: str,
        purpose: str,
        size_bytes: int,
        sha256: str,
        num_prompts: int,
        num_skipped: int,
        max_bytes_per_owner: int,
    ) -> tuple[StoredFile, bool]:
        """Record a file whose bytes are stored; return it and whether it is new.

        The same bytes under the same name are the owner's existing file, so that a client that repeats an upload after
        a broken connection has one file.

        Raises:
            QuotaExceededError: The owner's files together would exceed `max_bytes_per_owner`.
        """
        name = rows.clean_text(filename, 255)
        with self._write.begin() as session:
            lock(session, Space.FILES, owner)
            equal = select(FileRow).where(FileRow.owner == owner, FileRow.sha256 == sha256, FileRow.filename == name)
            there = session.scalars(equal.order_by(FileRow.seq).limit(1)).first()
            if there is not None:
                return self._reader.reduced(StoredFile, there), False
            _require_room(session, owner, size_bytes, max_bytes_per_owner)
            row = FileRow(
                id=file_id,
                owner=owner,
                filename=name,
                purpose=purpose,
                size_bytes=size_bytes,
                sha256=sha256,
                num_prompts=num_prompts,
                num_skipped=num_skipped,
                created_at=self._now(),
            )
            session.add(row)
            session.flush()
            return self._reader.reduced(StoredFile, row), True

    def require_room(self, owner: str, arriving_bytes: int, max_bytes_per_owner: int, *, spare_bytes: int = 0) -> None:
        """Check that the arriving files fit into the owner's limit.

        Args:
            owner: Owner of the files.
            arriving_bytes: Bytes of all files that are arriving now.
            max_bytes_per_owner: Largest sum of bytes of the owner's files.
            spare_bytes: Bytes by which the limit may be exceeded until all files have arrived.

        Raises:
            QuotaExceededError: The files do not fit.
        """
        with self._read() as session:
            _require_room(session, owner, arriving_bytes, max_bytes_per_owner, spare_bytes)

    def get(self, file_id: str, *, owner: str | None = None) -> StoredFile:
        """Return one file.

        Raises:
            NotFoundError: The owner has no such file.
        """
        with self._read() as session:
            return self._reader.reduced(StoredFile, _find(session, file_id, owner))

    def page(
        self, *, owner: str | None = None, limit: int = 100, after: str | None = None, newest_first: bool = True
    ) -> tuple[list[StoredFile], bool]:
        """List files in order of arrival, and return whether there are more.

        Raises:
            NotFoundError: The owner has no file `after`.
        """
        query = select(FileRow).order_by(FileRow.seq.desc() if newest_first else FileRow.seq)
        if owner is not None:
            query = query.where(FileRow.owner == owner)
        with self._read() as session:
            if after is not None:
                last = _find(session, after, owner).seq
                query = query.where(FileRow.seq < last if newest_first else FileRow.seq > last)
            found = session.scalars(query.limit(limit + 1)).all()
            return [self._reader.reduced(StoredFile, row) for row in found[:limit]], len(found) > limit

    def delete(self, file_id: str, *, owner: str | None, forget: Callable[[StoredFile], None]) -> StoredFile:
        """Delete a file's row; return the file.

        Args:
            file_id: Id of the file.
            owner: Owner of the file; None: any owner.
            forget: Function called last, before the commit: a row whose bytes are gone can be deleted again, but bytes
                without a row could not be found.

        Raises:
            NotFoundError: The owner has no such file.
            ConflictError: A live job was made from it.
        """
        with self._write.begin() as session:
            row = _find(session, file_id, owner)
            named = cast(JobRow.config, Text).contains(row.id, autoescape=True)
            live = select(JobRow.id).where(JobRow.status.in_([each.value for each in LIVE]), named)
            users = list(session.scalars(live.order_by(JobRow.seq).limit(_MAX_TOLD + 1)))
            if users:
                more = " and others" if len(users) > _MAX_TOLD else ""
                raise ConflictError(
                    f"file {row.id} is used by job {', '.join(users[:_MAX_TOLD])}{more}; let it end, or cancel it",
                    param="file_id",
                )
            gone = self._reader.reduced(StoredFile, row)
            session.delete(row)
            session.flush()
            forget(gone)
            return gone


def _find(session: Session, file_id: str, owner: str | None) -> FileRow:
    query = select(FileRow).where(FileRow.id == rows.clean_text(file_id))
    if owner is not None:
        query = query.where(FileRow.owner == owner)
    row = session.scalars(query).first()
    if row is None:
        raise NotFoundError(f"no file {file_id[:64]!r}; list the files to find its id", param="file_id")
    return row


def _require_room(session: Session, owner: str, size_bytes: int, most: int, spare_bytes: int = 0) -> None:
    is_of_owner = FileRow.owner == owner, FileRow.size_bytes.between(0, _MAX_BYTES)
    taken = session.scalar(select(func.coalesce(func.sum(FileRow.size_bytes), 0)).where(*is_of_owner)) or 0
    if int(taken) + size_bytes > most + spare_bytes:
        raise QuotaExceededError(
            f"the files of this owner take {taken:,} bytes, what is sent now {size_bytes:,}, and the limit for all "
            f"of them is {most:,}; delete files that nobody needs",
            param="file",
        )
