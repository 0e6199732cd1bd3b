"""Disk space of the service's home: counted at most once a minute, in a thread, so that no page waits for it."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from api.troubles import Troubles

logger = logging.getLogger(__name__)

_MAX_AGE_S = 60.0
_PATIENCE_S = 0.1


@dataclass(frozen=True)
class DiskUse:
    """Sizes of files in bytes; links are not followed.

    Attributes:
        runs_bytes: Files of jobs.
        packs_bytes: Files of published packs.
        others_bytes: All other files of the home: drafts, exports, caches, the database.
        free_bytes: Free space of the disk that holds the home.
        total_bytes: Size of the disk that holds the home.
    """

    runs_bytes: int
    packs_bytes: int
    others_bytes: int
    free_bytes: int
    total_bytes: int


class Disk:
    """The disk of one home; with `EDA_STORAGE`, only the files on this machine.

    Args:
        home: Root of all state.
        clock: Clock in seconds that never goes back.
    """

    def __init__(self, home: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._home, self._clock = home, clock
        self._known: DiskUse | None = None
        self._counted_at = float("-inf")
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._troubles = Troubles(logger)

    def look(self) -> DiskUse | None:
        """Return the last count, at most a minute old or as old as counting takes; None before the first count."""
        with self._lock:
            if self._thread is None and self._clock() - self._counted_at >= _MAX_AGE_S:
                self._thread = threading.Thread(target=self._refresh, name="disk", daemon=True)
                self._thread.start()
            counting = self._thread
        if counting is not None:
            counting.join(_PATIENCE_S)  # a small home is counted by then
        return self._known

    def _refresh(self) -> None:
        with self._troubles.caught("counting what the home takes"):
            self._known = count(self._home)
        with self._lock:
            self._counted_at, self._thread = self._clock(), None


def count(home: Path) -> DiskUse:
    """Count the files of a home now."""
    parts = {"runs": 0, "packs": 0, "others": 0}
    for name, size_bytes in _sizes(home):
        parts[name if name in parts else "others"] += size_bytes
    disk = shutil.disk_usage(home)
    return DiskUse(parts["runs"], parts["packs"], parts["others"], disk.free, disk.total)


def _sizes(home: Path) -> list[tuple[str, int]]:
    """List each entry of the home with its size. Files that vanish during the count are left out."""
    try:
        with os.scandir(home) as entries:
            return [(entry.name, _size(entry)) for entry in entries]
    except FileNotFoundError:
        return []


def _size(entry: os.DirEntry[str]) -> int:
    try:
        if not entry.is_dir(follow_symlinks=False):
            return entry.stat(follow_symlinks=False).st_size
        with os.scandir(entry.path) as entries:
            return sum(_size(each) for each in entries)
    except FileNotFoundError:
        return 0
