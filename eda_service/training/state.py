"""The state of a training run, which a checkpoint carries beside weights and optimizer."""

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
        step: Number of optimizer steps taken.
        best_step: Step of the best checkpoint so far.
        best_acceptance: Simulated acceptance length of the best checkpoint.
        initial_acceptance: Simulated acceptance length of the base draft, before the first step.
        restarts: Number of times the worker group was resumed.
        seconds: Seconds in the training loop up to this checkpoint, over all starts.
    """

    step: int = 0
    best_step: int = 0
    best_acceptance: float = -math.inf
    initial_acceptance: float = 0.0
    restarts: int = 0
    seconds: float = 0.0

    @classmethod
    def of_checkpoint(cls, values: Mapping[str, Any]) -> TrainState:
        """Read the state from a checkpoint's values; unknown entries are ignored.

        Raises:
            ArtifactCorruptError: The checkpoint is from early training of an earlier version (ADR 0021), which measured
                nothing before its first step.
        """
        state = cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        if state.initial_acceptance < 1.0:
            raise ArtifactCorruptError(
                f"the checkpoint of step {state.step} is one of early training, which this version does not have; "
                "submit the job anew"
            )
        return state

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain values for a checkpoint."""
        return asdict(self)
