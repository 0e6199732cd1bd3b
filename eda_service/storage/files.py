"""Atomic files: written beside their place, flushed to disk, renamed over it; sha256 of files on disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eda_service.errors import ArtifactCorruptError, InsufficientStorageError
from eda_service.formatting import size
from eda_service.records import FileEntry

_CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Compute the hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Compute the hex sha256 of a string's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def fsync_dir(path: Path) -> None:
    """Flush a directory entry, so that a rename inside it survives power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """Make a name beside `path` that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file has a name that `temporary_name` gives."""
    return name.startswith(".") and name.endswith(".tmp")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that readers see either the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    fsync_dir(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with `write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode("utf-8"))


def claim_file(path: Path, content: str | bytes, *, mode: int = 0o666) -> bool:
    """Create a file with its whole content unless it exists; return whether it was created.

    The content is written first and then linked, so that nobody reads an incomplete claim, not even after a crash. The
    file's permissions never exceed `mode` minus the umask.
    """
    temporary = temporary_name(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content if isinstance(content, bytes) else content.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(path.parent)
    return True


def directory_bytes(directory: Path) -> int:
    """Add up the bytes of all files below a directory, links not followed; 0 if it does not exist. Files deleted
    meanwhile do not count.
    """
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(folder) / name).lstat().st_size
    return total


def file_entry(root: Path, path: Path, *, transient: bool = False) -> FileEntry:
    """Describe a file by its path relative to `root`, hash and size."""
    return FileEntry(
        path=path.relative_to(root).as_posix(),
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        transient=transient,
    )


def verify_files(root: Path, entries: Iterable[FileEntry]) -> None:
    """Check that every file of a record exists and is unchanged; transient files may be absent.

    Raises:
        ArtifactCorruptError: A file is missing, or its size or hash differs.
    """
    for entry in entries:
        path = root / entry.path
        if not path.exists():
            if entry.transient:
                continue
            raise ArtifactCorruptError(f"{path} is named by its record but is missing; delete {root} to redo the stage")
        found = sha256_file(path)
        if found != entry.sha256:
            raise ArtifactCorruptError(
                f"{path} has sha256 {found[:12]}, its record says {entry.sha256[:12]}; delete {root} to redo the stage"
            )


def publish_dir(staging: Path, destination: Path) -> None:
    """Move a complete staging directory into place in one step; an existing destination is kept.

    Two processes may publish the same content: the first rename counts and the second discards its copy.
    """
    for path in staging.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(staging, destination)
    except OSError:
        if not destination.is_dir():
            raise
        shutil.rmtree(staging)
    fsync_dir(destination.parent)


def is_disk_full(error: BaseException) -> bool:
    """Whether the cause of an error is a full disk or a used-up quota.

    Libraries written in Rust report it in their message only.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(found) or "(os error 28)" in str(found):
            return True
        found = found.__cause__ or found.__context__
    return False


def require_free_bytes(path: Path, need_bytes: int, *, param: str) -> int:
    """Check that the store has enough free space; return the free bytes.

    Raises:
        InsufficientStorageError: Less than `need_bytes` is free.
    """
    path.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(path).free
    if free_bytes < need_bytes:
        raise InsufficientStorageError(
            f"this job needs {size(need_bytes)} under {path} and {size(free_bytes)} is free; "
            "free space, point EDA_HOME elsewhere, or lower dataset.num_prompts",
            param=param,
        )
    return free_bytes
