"""Progress reports of long operations: the caller passes a function and may display what it receives."""

from __future__ import annotations

from typing import Protocol

BYTES = "bytes"


class ProgressCallback(Protocol):
    """A function that receives progress, often and from one thread."""

    def __call__(self, step: str, done: float, total: float | None, unit: str = "") -> None:
        """Report progress.

        Args:
            step: Name of the current step, one word; a new word means that the step before is done.
            done: Amount that is done, in `unit`.
            total: Whole amount, in `unit`; None while it is unknown.
            unit: Name of the unit; `BYTES` is shown as a size.
        """
        ...


def no_progress(step: str, done: float, total: float | None, unit: str = "") -> None:
    """Ignore progress."""
