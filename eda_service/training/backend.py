"""The protocol of training backends, which take the steps of the training loop; `backends/` implements it."""

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
    """The samples of one forward.

    Attributes:
        batch: Batch on the backend's device.
        counts: Whether the part contributes to the loss; False if the worker has no samples for it and the batch only
            keeps the shapes equal.
    """

    batch: Batch
    counts: bool = True


@dataclass(frozen=True)
class Step:
    """One optimizer step of one worker.

    Attributes:
        number: Number of steps taken before this one.
        parts: The worker's share of the batch, whose gradients add up to that of the whole share.
        rate: Learning rate.
        is_repair: Only the places where decoding would end a round are learnt.
    """

    number: int
    parts: Sequence[Part]
    rate: float
    is_repair: bool = False


@dataclass(frozen=True)
class StepLosses:
    """The losses of a step.

    Attributes:
        total: The loss, averaged over the workers.
        regression: The first term of the loss, on this worker's last part.
        cross_entropy: The second term of the loss, on this worker's last part.
    """

    total: float
    regression: Tensor
    cross_entropy: Tensor


class Backend(Protocol):
    """A draft with its optimizer, in one process or as one of a group in which every worker makes the same calls.

    Attributes:
        rank: Index of this worker in the group.
        world_size: Number of workers in the group.
        device: Device for batches.
        mixed: Whether products run in bfloat16 on float32 weights, for which the loop uses autocast in validation.
        draft: The draft in training form.
    """

    rank: int
    world_size: int
    device: torch.device
    mixed: bool
    draft: Draft

    def step(self, step: Step, ends: SharedEnds) -> StepLosses:
        """Run forward and backward of every part, clip the gradients, and update the weights.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite; the weights are unchanged.
        """
        ...

    def save(self, directory: Path, state: Mapping[str, Any]) -> None:
        """Write trained weights, optimizer and state; each worker writes its own part of them."""
        ...

    def load(self, directory: Path) -> Mapping[str, Any]:
        """Load what `save` wrote and return the state."""
        ...

    def whole_weights(self) -> AbstractContextManager[None]:
        """Gather all of the draft's weights on this worker inside the block, also if the group keeps them in parts."""
        ...

    def mean(self, value: Tensor) -> float:
        """Average a value over the group; every worker gets the same number."""
        ...


def require_finite(total: float, step: Step) -> float:
    """Return the loss of a step if it is finite.

    Raises:
        NonFiniteLossError: The loss is not finite.
    """
    if not math.isfinite(total):
        raise NonFiniteLossError(
            f"the loss became {total} at step {step.number}, where the rate is {step.rate:g}; lower train.learning_rate"
        )
    return total
