"""Uploaded prompt files: taken in, checked as a job would read them, listed, opened for jobs, and deleted.

A file is written to disk as it arrives and is only there once all of it has been read through. A job that is made from
it copies it (`eda_service.storage.inputs.input_files`), so that deleting a file changes no job.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import anyio
import anyio.to_thread
from starlette.concurrency import run_in_threadpool

from api.auth import Caller
from api.files.arrivals import Arrivals
from api.settings import Settings
from eda_service.config.job import SelfGenConfig
from eda_service.errors import DatasetInvalidError, NotFoundError
from eda_service.ids import is_file_id, new_file_id
from eda_service.jobstore import StoredFile
from eda_service.jobstore.files import FileStore
from eda_service.names import MAX_NAME_CHARACTERS
from eda_service.selfgen.prompts import read_rows, survey
from eda_service.selfgen.skipped_rows import SkippedRows
from eda_service.storage.inputs.input_files import Copy, find_upload, forget_upload

PURPOSE = "fine-tune"
_MAX_COUNTED = 1_000_000
_NUM_READERS = 4
T = TypeVar("T")


class Files:
    """Uploaded files, as callers see them: another owner's does not exist.

    Args:
        store: Whose they are, and what they are called.
        settings: Where the bytes are, and how many an owner may have.
    """

    def __init__(self, store: FileStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._arrivals = Arrivals(store, settings)
        self._readers = anyio.CapacityLimiter(
            _NUM_READERS
        )  # minutes for the largest: other requests keep their threads

    async def receive(
        self, filename: str, chunks: AsyncIterator[bytes], caller: Caller, *, then: Callable[[], Awaitable[None]]
    ) -> StoredFile:
        """Take a file in as it arrives; the same bytes under the same name are the file that is there already.

        Args:
            filename: As the sender calls it.
            chunks: Its bytes.
            caller: Whose it is.
            then: Awaited when all bytes are here: reads the rest of the form, and raises where nothing shall be kept.

        Raises:
            DatasetInvalidError: It is no prompt file, or one that a job would refuse.
            FileTooLargeError: It is larger than one file may be.
            QuotaExceededError: The caller has no room left.
            InsufficientStorageError, StorageError: The disk does not take it.
        """
        async with _in_threads(self._arrivals.arriving(caller.owner)) as arrival:
            async for chunk in chunks:
                if arrival.add(chunk):
                    await run_in_threadpool(arrival.flush)
            await run_in_threadpool(arrival.flush)
            await then()
            finish = partial(self._finish, arrival.copy, filename, caller)
            stored, _ = await anyio.to_thread.run_sync(finish, limiter=self._readers)
            return stored

    def put(self, filename: str, lines: Iterable[str], caller: Caller) -> tuple[StoredFile, bool]:
        """Make a file of lines that are here already; returns it and whether it is new. Raises as `receive` does."""
        with self._arrivals.arriving(caller.owner) as arrival:
            for line in lines:
                if arrival.add(f"{line}\n".encode()):
                    arrival.flush()
            arrival.flush()
            return self._finish(arrival.copy, filename, caller)

    def page(
        self, caller: Caller, *, limit: int, after: str | None, newest_first: bool = True
    ) -> tuple[list[StoredFile], bool]:
        """Files, and whether there are more."""
        return self._store.page(owner=caller.sees, limit=limit, after=after, newest_first=newest_first)

    def get(self, file_id: str, caller: Caller) -> StoredFile:
        """One file.

        Raises:
            NotFoundError: The caller sees none of that id.
        """
        return self._store.get(file_id, owner=caller.sees)

    def content(self, file_id: str, caller: Caller) -> tuple[StoredFile, Path]:
        """One file with its bytes.

        Raises:
            NotFoundError: The caller sees none of that id, or the bytes are gone.
        """
        found = self.get(file_id, caller)
        path = find_upload(found.id, self._settings.home) if is_file_id(found.id) else None
        if path is None:
            raise NotFoundError(
                f"the bytes of file {found.id} are gone; delete it and upload it again", param="file_id"
            )
        return found, path

    def in_words(self, source: str, caller: Caller) -> str:
        """What prompts are called: an uploaded file by its name, then its id, as long as it is there."""
        try:
            return f"{self.get(source, caller).filename} ({source})" if is_file_id(source) else source
        except NotFoundError:
            return source

    def open(self, file_id: str, param: str, caller: Caller) -> BinaryIO:
        """Open a file that a request names as its prompts.

        Raises:
            DatasetInvalidError: The caller sees none of that id, or its bytes are gone.
        """
        try:
            _, path = self.content(file_id, caller)
            return path.open("rb")
        except (NotFoundError, FileNotFoundError) as error:
            raise DatasetInvalidError(
                f"{param} names no uploaded file of yours; GET /v1/files lists them, and `eda data upload` makes one",
                param=param,
            ) from error

    def delete(self, file_id: str, caller: Caller) -> StoredFile:
        """Forget a file and its bytes; copies that jobs were made from stay with their jobs.

        Raises:
            NotFoundError: The caller sees none of that id.
            ConflictError: A live job was made from it.
        """

        def forget(gone: StoredFile) -> None:
            if is_file_id(gone.id):  # a damaged row names no path
                forget_upload(gone.id, self._settings.home)

        return self._store.delete(file_id, owner=caller.sees, forget=forget)

    def _finish(self, copy: Copy, filename: str, caller: Caller) -> tuple[StoredFile, bool]:
        """Read what has arrived as a job would, and give it its place and its row; whether it is new."""
        skipped = SkippedRows(float(SelfGenConfig.model_fields["max_error_fraction"].default))
        with copy.reread() as stream:
            rows = read_rows(stream, shown="file", param="file", skipped=skipped)
            found = survey(rows, shown="file", enough=_MAX_COUNTED, param="file")
        file_id = new_file_id()
        sha256 = copy.publish(file_id)
        try:
            stored, is_new = self._store.add(
                file_id,
                owner=caller.owner,
                filename=filename or "prompts.jsonl",
                purpose=PURPOSE,
                size_bytes=copy.size_bytes,
                sha256=sha256,
                num_prompts=found.num_distinct,
                num_skipped=skipped.num,
                max_bytes_per_owner=self._settings.max_file_bytes_per_owner,
            )
        except BaseException:
            forget_upload(file_id, self._settings.home)
            raise
        if not is_new:
            forget_upload(file_id, self._settings.home)
        return stored, is_new


@asynccontextmanager
async def _in_threads(files: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave in threads what touches a disk, and leave it also where the request is given up."""
    entered = await run_in_threadpool(files.__enter__)
    try:
        yield entered
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(files.__exit__, None, None, None)


def kept_name(deployment: str) -> str:
    """What a file of a deployment's kept prompts is called."""
    return f"kept-by-{deployment}"[:MAX_NAME_CHARACTERS] + ".jsonl"
