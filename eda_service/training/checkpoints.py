"""Where a run's resumable checkpoints are kept: the seam to Ray Train, which keeps them for a group of workers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Checkpoints(Protocol):
    """Checkpoints of one run."""

    def latest(self) -> AbstractContextManager[Path | None]:
        """The directory of the newest one; None: there is none, and training begins."""
        ...

    def keep(self, step: int, write: Callable[[Path], None]) -> None:
        """Have one written into an empty directory, and keep it; all workers call it together."""
        ...
