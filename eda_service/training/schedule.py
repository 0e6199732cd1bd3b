"""Learning rate as a pure function of the step: linear warm-up, then cosine decay to 5 % of the peak."""

from __future__ import annotations

import math

_FLOOR = 0.05


def learning_rate(step: int, total_steps: int, *, peak: float, warmup_fraction: float) -> float:
    """Rate of step 0..total_steps-1."""
    warmup = max(1, round(total_steps * warmup_fraction))
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    return peak * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))
