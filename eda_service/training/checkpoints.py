"""The protocol of resumable checkpoints; Ray Train keeps them for a group of workers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Checkpoints(Protocol):
    """The checkpoints of one run."""

    def latest(self) -> AbstractContextManager[Path | None]:
        """Enter the directory of the newest checkpoint; None: there is none, and training begins."""
        ...

    def keep(self, step: int, write: Callable[[Path], None]) -> None:
        """Let `write` fill an empty directory, and keep it as a checkpoint; all workers call this together."""
        ...
