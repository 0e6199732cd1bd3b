"""Where a training run stands: what a checkpoint carries beside weights and optimizer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class TrainState:
    """Progress of a run; saved with every checkpoint, so a resumed run makes the same decisions.

    Attributes:
        step: Optimizer steps taken.
        best_step: Step of the best checkpoint so far.
        best_acceptance: Its simulated acceptance length.
        initial_acceptance: The same before the first step: the base draft's.
        restarts: Times the worker group was resumed.
        seconds: In the loop up to this checkpoint, all starts together.
    """

    step: int = 0
    best_step: int = 0
    best_acceptance: float = -math.inf
    initial_acceptance: float = 0.0
    restarts: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint's client state."""
        return asdict(self)
