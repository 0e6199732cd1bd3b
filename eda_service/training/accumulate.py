"""Gradient accumulation: a worker's share of a batch in several forwards, with the gradient of one.

Every term of the loss is a mean over the unmasked tokens of a step. The mean of the parts' means differs from the mean
of the whole, so each part's sums are divided by the whole share's counts; the parts' gradients then add up to the
whole's.

Shapes: S unrolled steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eda_service.config.job import TrainConfig
from eda_service.training.backend import Part
from eda_service.training.batches import Batch
from eda_service.training.loss import step_mask


def num_parts(config: TrainConfig, world_size: int) -> int:
    """Return the number of forwards of each worker in an optimizer step."""
    per_worker = -(-config.batch_size // world_size)
    return -(-per_worker // (config.micro_batch_size or per_worker))


def split(share: Sequence[int], parts: int) -> list[list[int]]:
    """Split a worker's samples into that many parts of similar size; some parts of a short share are empty."""
    return [list(share[part::parts]) for part in range(parts)]


def step_counts(batch: Batch, num_steps: int) -> Tensor:
    """Count the unmasked tokens of each unrolled step, (S,)."""
    mask_BS = step_mask(batch, 0)
    return torch.stack([mask_BS[:, step:].sum() for step in range(num_steps)])


def whole_counts(parts: Sequence[Part], num_steps: int) -> Tensor | None:
    """Count the unmasked tokens per step of a whole share (S,), at least 1 each; None for a single part, which counts
    itself.
    """
    if len(parts) == 1:
        return None
    return torch.stack([step_counts(part.batch, num_steps) for part in parts if part.counts]).sum(0).clamp(min=1)
