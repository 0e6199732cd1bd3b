"""Uploads that arrive: written beside the files that are there, and counted with them while they do.

What an owner's uploads hold on the disk at one time, however many there are, is at most what all its files may have
and one file more. That one is there since an upload of what is there already takes no room in the end, which only its
hash tells. Of several services in one home each counts its own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from api.errors import FileTooLargeError
from api.settings import Settings
from eda_service.jobstore.files import FileStore
from eda_service.storage.inputs.input_files import Copy, receiving

_BUFFER_BYTES = 1 << 20


class Arrivals:
    """Uploads on their way.

    Args:
        files: Says what an owner's files take.
        settings: Where the bytes go, and how many an owner may have.
    """

    def __init__(self, files: FileStore, settings: Settings) -> None:
        self._files, self._settings = files, settings
        self._num_bytes: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def arriving(self, owner: str) -> Iterator[Arrival]:
        """One upload, of which nothing is left at the end unless it was published.

        Raises:
            QuotaExceededError: The owner has no room left.
            InsufficientStorageError, StorageError: The disk does not take it.
        """
        self._count(owner, 0)
        with receiving(self._settings.home) as copy:
            arrival = Arrival(copy, self._settings.max_file_bytes, partial(self._count, owner))
            try:
                yield arrival
            finally:
                self._forget(owner, arrival.num_counted)

    def _count(self, owner: str, size_bytes: int) -> None:
        """Count bytes that are about to be written, unless with them an owner's uploads hold too much."""
        with self._lock:
            self._num_bytes[owner] += size_bytes
            arriving_bytes = self._num_bytes[owner]
        most, spare = self._settings.max_file_bytes_per_owner, self._settings.max_file_bytes
        try:
            self._files.require_room(owner, arriving_bytes, most, spare_bytes=spare)
        except BaseException:
            self._forget(owner, size_bytes)
            raise

    def _forget(self, owner: str, size_bytes: int) -> None:
        with self._lock:
            self._num_bytes[owner] -= size_bytes
            if not self._num_bytes[owner]:
                del self._num_bytes[owner]


class Arrival:
    """One upload on its way: in memory up to a MiB, then on the disk.

    Args:
        copy: Where it is written.
        max_bytes: The most that it may have.
        count: Told how many bytes are about to be written; raises where they may not be.
    """

    def __init__(self, copy: Copy, max_bytes: int, count: Callable[[int], None]) -> None:
        self.copy, self._max_bytes, self._count = copy, max_bytes, count
        self.num_counted = 0
        self._waiting = bytearray()

    def add(self, data: bytes) -> bool:
        """Append bytes; returns whether so many wait in memory that they are to be flushed.

        Raises:
            FileTooLargeError: The upload is larger than one file may be.
        """
        self._waiting += data
        if self.copy.size_bytes + len(self._waiting) > self._max_bytes:
            raise FileTooLargeError(
                f"the file is larger than {self._max_bytes:,} bytes, the most that this service takes "
                "(EDA_MAX_FILE_BYTES); part it, or pack it with gzip",
                param="file",
            )
        return len(self._waiting) >= _BUFFER_BYTES

    def flush(self) -> None:
        """Write what waits.

        Raises:
            QuotaExceededError: The owner's uploads hold too much.
            InsufficientStorageError, StorageError: The disk does not take it.
        """
        self._count(len(self._waiting))
        self.num_counted += len(self._waiting)
        self.copy.write(bytes(self._waiting))
        self._waiting.clear()
