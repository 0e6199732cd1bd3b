"""A directory that is written beside its place, under a name of its own, until it is whole.

Its process holds a lock on it, which ends with the process however that ends: what a killed one left is known by that
nobody holds it, and the next that writes to the same place removes it. Where a file system locks no directories (NFS),
nothing is taken for left behind.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eda_service.storage.files import is_temporary, temporary_name


@contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """A new directory beside `destination`, for what shall lie there; it is removed at the end if it was not moved.

    What dead processes left for the same destination is removed first.

    Args:
        destination: Absolute; its parents are made.

    Raises:
        OSError: Nothing can be written beside it.
    """
    for left in abandoned(destination):
        discard_abandoned(left)
    staging, held = _make(destination)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(held)


def abandoned(destination: Path) -> list[Path]:
    """Directories that dead processes left beside a destination."""
    if not destination.parent.is_dir():
        return []
    prefix = f".{destination.name}."
    named = [path for path in destination.parent.iterdir() if path.name.startswith(prefix) and is_temporary(path.name)]
    return sorted(path for path in named if _is_of(path.name.removeprefix(prefix)) and _is_left(path))


def discard_abandoned(left: Path) -> bool:
    """Remove a directory if its process is dead; whether it was."""
    held = _held(left)
    if held is None:
        return False
    try:
        shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(held)
    return True


def _make(destination: Path) -> tuple[Path, int]:
    """A directory that is locked, and the descriptor that holds it."""
    while True:
        staging = temporary_name(destination)
        staging.mkdir(parents=True)
        held = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)  # whoever has it now took the new directory for a left one
        except OSError:
            return staging, held
        if staging.is_dir():
            return staging, held
        os.close(held)


def _is_of(rest: str) -> bool:
    """Whether what follows a destination's name is what `temporary_name` puts there, and no longer name."""
    return rest.count(".") == 1 and rest.partition("-")[0].isdigit()


def _is_left(path: Path) -> bool:
    held = _held(path)
    if held is None:
        return False
    os.close(held)
    return True


def _held(path: Path) -> int | None:
    """A descriptor that holds a directory; None where it is none, or another process holds it."""
    if path.is_symlink():
        return None
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held
