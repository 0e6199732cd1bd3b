"""A function that is called repeatedly in a thread of its own, while the process is busy elsewhere."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Repeating(ABC):
    """Context manager that calls `look` at intervals until the block ends.

    Args:
        name: Name of the thread.
        every_s: Seconds between two calls, more than 0.
    """

    def __init__(self, name: str, every_s: float) -> None:
        self._every_s, self._stop = every_s, threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @abstractmethod
    def look(self) -> None:
        """Do the repeated work; must not raise."""

    def _repeat(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()
