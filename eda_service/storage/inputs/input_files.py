"""Copies of prompt files, made while they are checked at submit: `<home>/inputs/<sha256>.jsonl`; and files that were
uploaded: `<home>/files/<id>.jsonl`, from which such copies are made.

A job reads the copy, so that what was checked is what is read, whatever happens to the file meanwhile. The name is the
content's hash: equal files are one copy. Only the service's user can read them; they stay as long as a job names them,
since it may be retried at any time; `eda gc` removes the others. With storage by URL each is an object
`inputs/<sha256>.jsonl` too. An uploaded file belongs to one id of one owner, and goes when that is deleted; copies that
jobs were made from stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from eda_service.errors import ArtifactCorruptError, DatasetInvalidError, InsufficientStorageError, StorageError
from eda_service.storage.files import fsync_dir, is_disk_full, sha256_file, temporary_name
from eda_service.storage.place import current_place

ABANDONED_S = 24 * 3600.0
"""What is written for longer belongs to a process that was killed."""
UPLOADS = "files"
INPUTS = "inputs"


def directory(home: Path, name: str = INPUTS) -> Path:
    """Where the copies are, made for this user alone."""
    path = home / name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


class Copy:
    """One copy being written.

    Args:
        path: Where it is written until it is whole.
        param: The field that errors name.
    """

    def __init__(self, path: Path, param: str = "dataset.source") -> None:
        self._path, self._param = path, param
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        self._stream = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            InsufficientStorageError, StorageError: The service's disk does not take them.
        """
        self._digest.update(data)
        self.size_bytes += len(data)
        with _told(self._param):
            self._stream.write(data)

    def reread(self) -> BinaryIO:
        """What was written so far, from its beginning."""
        with _told(self._param):
            self._stream.flush()
            return self._path.open("rb")

    def publish(self, name: str | None = None) -> str:
        """Flush it, give it its name, and return its hash, which is the name where none is given.

        Raises:
            InsufficientStorageError, StorageError: The service's disk, or its storage, does not take it.
        """
        sha256 = self._digest.hexdigest()
        path = self._path.with_name(f"{name or sha256}.jsonl")
        with _told(self._param):
            self._stream.flush()
            os.fsync(self._stream.fileno())
            os.replace(self._path, path)  # what is there already has the same bytes
            fsync_dir(path.parent)
        current_place().objects(path.parents[1]).put_file(f"{path.parent.name}/{path.name}", path)
        return sha256

    def close(self) -> None:
        """Forget what was not published."""
        self._stream.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def copying(home: Path, *, param: str = "dataset.source") -> Iterator[Copy]:
    """A copy to write and publish, for a job.

    Raises:
        InsufficientStorageError: The disk of the home is full.
        StorageError: It cannot be written for another reason.
    """
    with _writing(home, INPUTS, param) as copy:
        yield copy


@contextmanager
def receiving(home: Path) -> Iterator[Copy]:
    """An uploaded file to write and publish under its id; raises as `copying` does."""
    with _writing(home, UPLOADS, "file") as copy:
        yield copy


@contextmanager
def _writing(home: Path, kind: str, param: str) -> Iterator[Copy]:
    with _told(param):
        folder = directory(home, kind)
        _clean(folder)
        copy = Copy(temporary_name(folder / "input"), param)
    try:
        yield copy
    finally:
        with contextlib.suppress(OSError):  # what was buffered does not fit either
            copy.close()


@contextmanager
def _told(param: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise InsufficientStorageError(
                "the service's disk is full, so the prompt file cannot be copied; free space there and try again",
                param=param,
            ) from error
        raise StorageError(f"the service cannot copy the prompt file: {error.strerror}; look at its home") from error


def find_copy(sha256: str, source: str, home: Path) -> Path:
    """The copy of a file, verified.

    Args:
        sha256: Its hash.
        source: What the caller wrote, for messages.
        home: Root of all state.

    Raises:
        DatasetInvalidError: It is not there any more.
        ArtifactCorruptError: It has other bytes.
    """
    path = home / "inputs" / f"{sha256}.jsonl"
    if not path.is_file():
        directory(home)
        current_place().objects(home).get_file(_key(sha256), path)
    if not path.is_file():
        raise DatasetInvalidError(
            f"the copy of {source} that was made at submit (sha256 {sha256[:12]}) is gone; submit the job again",
            param="dataset.source",
        )
    found = sha256_file(path)
    if found != sha256:
        raise ArtifactCorruptError(
            f"the copy of {source} has sha256 {found[:12]}, at submit it was {sha256[:12]}; submit the job again",
            param="dataset.source",
        )
    return path


def find_upload(file_id: str, home: Path) -> Path | None:
    """The bytes of an uploaded file; None when they are gone."""
    path = directory(home, UPLOADS) / f"{file_id}.jsonl"
    if path.is_file() or current_place().objects(home).get_file(f"{UPLOADS}/{path.name}", path):
        return path
    return None


def forget_upload(file_id: str, home: Path) -> None:
    """Delete the bytes of an uploaded file; those that are not there are none the less gone."""
    path = directory(home, UPLOADS) / f"{file_id}.jsonl"
    path.unlink(missing_ok=True)
    current_place().objects(home).delete([f"{UPLOADS}/{path.name}"])


def forget_copy(sha256: str, home: Path) -> None:
    """Delete the copy of a prompt file that no job needs."""
    (home / INPUTS / f"{sha256}.jsonl").unlink(missing_ok=True)
    current_place().objects(home).delete([_key(sha256)])


def _clean(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for path in folder.glob(".input.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()


def _key(sha256: str) -> str:
    return f"{INPUTS}/{sha256}.jsonl"
