"""What takes a training step: the seam below the loop, on which `backends/` stand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from eda_service.drafts.draft import Draft
from eda_service.errors import NonFiniteLossError
from eda_service.training.batches import Batch
from eda_service.training.inputs import SharedEnds


@dataclass(frozen=True)
class Part:
    """Samples of one forward.

    Attributes:
        batch: On the backend's device.
        counts: False: a worker's share has no samples for this part, and the batch holds one for the shape alone.
    """

    batch: Batch
    counts: bool = True


@dataclass(frozen=True)
class Step:
    """One optimizer step of one worker.

    Attributes:
        number: Steps taken before it.
        parts: The worker's share of the batch, whose gradients add up to that of the whole share.
        rate: Learning rate.
    """

    number: int
    parts: Sequence[Part]
    rate: float


@dataclass(frozen=True)
class StepLosses:
    """What a step says of itself.

    Attributes:
        total: The loss, the mean over the workers.
        regression: This worker's first term, of its last part.
        cross_entropy: Its second.
    """

    total: float
    regression: Tensor
    cross_entropy: Tensor


class Backend(Protocol):
    """A draft with its optimizer, in one process or as one of a group in which every worker makes the same calls.

    Attributes:
        rank: This worker's number in the group.
        world_size: Workers of the group.
        device: Where batches belong.
        mixed: Whether products run in bfloat16 on float32 weights, for which the loop casts where it validates.
        draft: The draft in training form.
    """

    rank: int
    world_size: int
    device: torch.device
    mixed: bool
    draft: Draft

    def step(self, step: Step, ends: SharedEnds) -> StepLosses:
        """Forward and backward of every part, clip, and move the weights.

        Raises:
            NonFiniteLossError: The loss left the numbers; the weights are as they were.
        """
        ...

    def save(self, directory: Path, state: Mapping[str, Any]) -> None:
        """Write trained weights, optimizer and state; each worker its own part of them."""
        ...

    def load(self, directory: Path) -> Mapping[str, Any]:
        """Take up what `save` wrote; returns the state."""
        ...

    def whole_weights(self) -> AbstractContextManager[None]:
        """Inside, this worker sees all of the draft's weights, also where the group keeps them in parts."""
        ...

    def mean(self, value: Tensor) -> float:
        """The mean over the group, the same number for every worker."""
        ...


def require_finite(total: float, step: Step) -> float:
    """The loss of a step.

    Raises:
        NonFiniteLossError: It is not finite.
    """
    if not math.isfinite(total):
        raise NonFiniteLossError(
            f"the loss became {total} at step {step.number}, where the rate is {step.rate:g}; lower train.learning_rate"
        )
    return total
