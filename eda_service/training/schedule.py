"""Learning rate as a pure function of the step: linear warm-up, then cosine decay to 5 % of the peak; and early
stopping. Imports no torch, so that the planner can use it.
"""

from __future__ import annotations

import math

SIMULATED_DEPTH = 5
"""Number of positions that a held-out pass drafts."""
_FLOOR = 0.05


def learning_rate(step: int, total_steps: int, *, peak: float, warmup_fraction: float) -> float:
    """Compute the learning rate of a step, 0..total_steps-1."""
    warmup = max(1, round(total_steps * warmup_fraction))
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    return peak * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


def has_stopped_improving(step: int, best_step: int, *, steps_per_epoch: int, patience: int | None) -> bool:
    """Whether `patience` epochs have passed since `best_step`; None never stops.

    The answer depends on the steps alone, so a resumed run stops at the same step.
    """
    return patience is not None and step - best_step >= patience * steps_per_epoch
