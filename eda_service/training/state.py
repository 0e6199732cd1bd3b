"""Where a training run stands: what a checkpoint carries beside weights and optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from eda_service.errors import ArtifactCorruptError


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

    @classmethod
    def of_checkpoint(cls, values: Mapping[str, Any]) -> TrainState:
        """What a checkpoint carries, entries of others left out.

        Raises:
            ArtifactCorruptError: An earlier version wrote it in early training (ADR 0021), which measured nothing
                before its first step.
        """
        state = cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        if state.initial_acceptance < 1.0:
            raise ArtifactCorruptError(
                f"the checkpoint of step {state.step} is one of early training, which this version does not have; "
                "submit the job anew"
            )
        return state

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint's client state."""
        return asdict(self)
