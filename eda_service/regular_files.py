"""Opening files that others have written, without harm to the databases that this process uses.

Closing *any* ordinary descriptor of a file drops all POSIX locks that a process holds on it (fcntl(2), "Record locks").
SQLite's locks are among them: without them another process may take the database for unused and remove the write-ahead
log that this process still writes to, and committed data is lost. So only the database layer opens these files. A file
is first opened with `O_PATH`, which reads nothing and whose closing drops no lock; only a regular file that is no
database is then opened through that descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_BESIDE_DATABASE = ("", "-wal", "-shm", "-journal")

_databases: set[str] = set()


def protect_database(path: str) -> None:
    """Refuse from now on to open this database file, and the files that SQLite keeps beside it, in this process."""
    _databases.add(path)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, if it is a regular file and no database that this process uses.

    Raises:
        OSError: The file is not regular, is a database of this process, or cannot be opened.
    """
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return reopen(descriptor)
    finally:
        os.close(descriptor)


def reopen(descriptor: int) -> BinaryIO:
    """Open a stream of the file that an `O_PATH` descriptor stands for.

    Raises:
        OSError: The file is not regular, is a database of this process, or cannot be opened.
    """
    require_harmless(os.fstat(descriptor))
    return os.fdopen(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC), "rb")


def require_harmless(status: os.stat_result) -> None:
    """Check that opening and closing a file does no harm.

    Raises:
        OSError: The file is not regular, or is a database of this process, under whatever name.
    """
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    held = {place(f"{path}{suffix}") for path in _databases for suffix in _BESIDE_DATABASE}
    if (status.st_dev, status.st_ino) in held:
        raise OSError(errno.EACCES, "it is no file of a caller's")


def place(path: Path | str) -> tuple[int, int] | None:
    """Return device and inode of a path; None if the path does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
