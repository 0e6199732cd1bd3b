"""How what takes long says how far it is: to whoever calls it, who may draw it or not."""

from __future__ import annotations

from typing import Protocol

BYTES = "bytes"


class ProgressCallback(Protocol):
    """Told of progress, often and from one thread."""

    def __call__(self, step: str, done: float, total: float | None, unit: str = "") -> None:
        """Take note.

        Args:
            step: What goes on, in a word; a new word means that the one before is done.
            done: So much of it.
            total: Of so much; None while nobody knows.
            unit: What is counted; `BYTES` is shown as a size.
        """
        ...


def no_progress(step: str, done: float, total: float | None, unit: str = "") -> None:
    """Tell nobody."""
