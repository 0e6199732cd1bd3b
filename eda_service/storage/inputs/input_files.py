"""Copies of prompt files, made while they are checked at submit: `<home>/inputs/<sha256>.jsonl`; and uploaded files:
`<home>/files/<id>.jsonl`, from which such copies are made.

A job reads the copy, so that it reads what was checked, whatever happens to the file meanwhile. The name is the
content's hash: equal files share one copy. Only the service's user can read the copies; they stay as long as a job
names them, since it may be retried at any time; `eda gc` removes the others. With storage by URL each is also an object
`inputs/<sha256>.jsonl`. An uploaded file belongs to one id of one owner, and is deleted with it; copies that jobs were
made from stay.
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
"""Age in seconds after which an unfinished file belongs to a process that was killed."""
UPLOADS = "files"
INPUTS = "inputs"


def directory(home: Path, name: str = INPUTS) -> Path:
    """Return the directory of the copies; it is made for this user only."""
    path = home / name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


class Copy:
    """A copy that is being written.

    Args:
        path: Path of the file until it is complete.
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
            InsufficientStorageError, StorageError: The service's disk cannot store them.
        """
        self._digest.update(data)
        self.size_bytes += len(data)
        with _told(self._param):
            self._stream.write(data)

    def reread(self) -> BinaryIO:
        """Open what was written so far, at its beginning."""
        with _told(self._param):
            self._stream.flush()
            return self._path.open("rb")

    def publish(self, name: str | None = None) -> str:
        """Flush the copy, give it its name, and return its hash, which is the name if none is given.

        Raises:
            InsufficientStorageError, StorageError: The service's disk, or its storage, cannot store it.
        """
        sha256 = self._digest.hexdigest()
        path = self._path.with_name(f"{name or sha256}.jsonl")
        with _told(self._param):
            self._stream.flush()
            os.fsync(self._stream.fileno())
            os.replace(self._path, path)  # an existing copy already has the same bytes
            fsync_dir(path.parent)
        current_place().objects(path.parents[1]).put_file(f"{path.parent.name}/{path.name}", path)
        return sha256

    def close(self) -> None:
        """Delete the copy if it was not published."""
        self._stream.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def copying(home: Path, *, param: str = "dataset.source") -> Iterator[Copy]:
    """Open a copy to write and publish, for a job.

    Raises:
        InsufficientStorageError: The disk of the home is full.
        StorageError: The copy cannot be written for another reason.
    """
    with _writing(home, INPUTS, param) as copy:
        yield copy


@contextmanager
def receiving(home: Path) -> Iterator[Copy]:
    """Open an uploaded file to write and publish under its id; raises the errors of `copying`."""
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
        with contextlib.suppress(OSError):  # the buffered rest does not fit either
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
    """Find the copy of a file and verify its hash.

    Args:
        sha256: Hash of the file.
        source: Source as the caller wrote it, for messages.
        home: Root of all state.

    Raises:
        DatasetInvalidError: The copy does not exist any more.
        ArtifactCorruptError: The copy has other bytes.
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
    """Find the bytes of an uploaded file; None if they are gone."""
    path = directory(home, UPLOADS) / f"{file_id}.jsonl"
    if path.is_file() or current_place().objects(home).get_file(f"{UPLOADS}/{path.name}", path):
        return path
    return None


def forget_upload(file_id: str, home: Path) -> None:
    """Delete the bytes of an uploaded file, if they exist."""
    path = directory(home, UPLOADS) / f"{file_id}.jsonl"
    path.unlink(missing_ok=True)
    current_place().objects(home).delete([f"{UPLOADS}/{path.name}"])


def forget_copy(sha256: str, home: Path) -> None:
    """Delete the copy of a prompt file that no job needs."""
    (home / INPUTS / f"{sha256}.jsonl").unlink(missing_ok=True)
    current_place().objects(home).delete([_key(sha256)])


def _clean(folder: Path) -> None:
    """Remove files that killed processes have left."""
    for path in folder.glob(".input.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()


def _key(sha256: str) -> str:
    return f"{INPUTS}/{sha256}.jsonl"
