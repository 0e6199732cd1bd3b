"""The effect that `train.early_stopping_patience` would have had on the cells, computed from their curves.

Early stopping leaves the schedule of the learning rate unchanged and keeps the best weights, so a run with it is a
shortened run: `eda_early_stopping` of the group `beyond` shows that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from eda_service.training.schedule import has_stopped_improving

PATIENCES = (1, 2, 3)


def stopped_at(lengths: Sequence[float], patience: int) -> int:
    """Return the last epoch trained; `lengths` are simulated acceptance before the first epoch and after each."""
    best = 0
    for epoch, length in enumerate(lengths):
        best = epoch if length > lengths[best] else best
        if has_stopped_improving(epoch, best, steps_per_epoch=1, patience=patience):
            return epoch
    return len(lengths) - 1


def stopping_rows(results: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Make rows by patience: how many cells would have ended early, the epochs saved in all of them together, and the
    relative loss of the best simulated acceptance: mean and maximum over those that end early.
    """
    curves = [[length for _, length in result["trained"]["curve"]] for result in results if result.get("trained")]
    curves = [curve for curve in curves if len(curve) > 1]
    epochs = sum(len(curve) - 1 for curve in curves)
    rows = []
    for patience in PATIENCES if curves else ():
        ends = [(curve, stopped_at(curve, patience)) for curve in curves]
        early = [(curve, end) for curve, end in ends if end < len(curve) - 1]
        spared = sum(len(curve) - 1 - end for curve, end in early) / epochs
        lost = [1 - max(curve[: end + 1]) / max(curve) for curve, end in early]
        losses = [f"{sum(lost) / len(lost):.1%}", f"{max(lost):.1%}"] if lost else ["-", "-"]
        rows.append([str(patience), f"{len(early)} of {len(curves)}", f"{spared:.1%}", *losses])
    return rows
