"""Comparison of a draft's own embedding with its target's: usually a copy, sometimes trained, in some exports random.

Shapes: V vocabulary, D hidden.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from eda_service.config.base import Config
from eda_service.drafts.dialects import names
from eda_service.drafts.dialects.read import ReadDraft
from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.dialects.tensors import TensorAt

CLOSE = 0.99
_BLOCK_ROWS = 4096


class Likeness(StrEnum):
    """How similar two embedding tables are."""

    EQUAL = "equal"
    """Every number is equal."""
    ROUNDED = "rounded"
    """The numbers are equal up to the rounding of the coarser of the two dtypes."""
    OTHER = "other"
    """The rows differ: trained further, of another model, or random."""
    OTHER_WIDTH = "other_width"
    """The draft has another width than its target, so that rows cannot be compared."""


class EmbeddingFinding(Config):
    """Result of comparing a draft's own embedding with its target's."""

    likeness: Likeness
    far_fraction: float = Field(ge=0, le=1, description=f"share of rows whose cosine is below {CLOSE}")
    mean_cosine: float | None = Field(description="over all rows; None for another width")
    min_cosine: float | None = Field(description="of the row that differs most")


def embedding_against(read: ReadDraft, target_table_VD: Tensor) -> EmbeddingFinding | None:
    """Compare the two embeddings, a block of rows at a time.

    Args:
        read: Draft that was read.
        target_table_VD: The base target's embedding.

    Returns:
        The comparison; None if the draft has no embedding of its own.

    Raises:
        DraftIncompatibleError: The target's table has another number of rows.
    """
    at = read.tensors.get(names.EMBEDDING)
    if at is None:
        return None
    if at.shape[0] != target_table_VD.shape[0]:
        raise refusal(
            f"{at.name} has {at.shape[0]} rows, the target's embedding has {target_table_VD.shape[0]}; import the "
            "draft for the target that it was trained for"
        )
    if at.shape[1] != target_table_VD.shape[1]:
        return EmbeddingFinding(likeness=Likeness.OTHER_WIDTH, far_fraction=1.0, mean_cosine=None, min_cosine=None)
    return _compare(at, target_table_VD)


def _compare(at: TensorAt, target_VD: Tensor) -> EmbeddingFinding:
    rows = at.shape[0]
    is_equal = is_rounded = True
    num_far, total, least = 0, 0.0, 1.0
    for first in range(0, rows, _BLOCK_ROWS):
        own, other = at.load(first, _BLOCK_ROWS), target_VD[first : first + _BLOCK_ROWS].cpu()
        own_BD, other_BD = own.float(), other.float()
        is_equal = is_equal and torch.equal(own_BD, other_BD)
        is_rounded = is_rounded and (is_equal or _is_rounding(own, other))
        cosine_B = _cosine(own_BD, other_BD)
        num_far += int((cosine_B < CLOSE).sum())
        total += float(cosine_B.double().sum())
        least = min(least, float(cosine_B.min()))
    likeness = Likeness.EQUAL if is_equal else Likeness.ROUNDED if is_rounded else Likeness.OTHER
    return EmbeddingFinding(likeness=likeness, far_fraction=num_far / rows, mean_cosine=total / rows, min_cosine=least)


def _is_rounding(own: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by rounding only: by at most half a unit in the last place of each."""
    left, right = own.double(), other.double()
    relative = sum(torch.finfo(each.dtype).eps for each in (own, other)) / 2
    smallest = sum(torch.finfo(each.dtype).smallest_normal * torch.finfo(each.dtype).eps for each in (own, other))
    bound = relative * torch.maximum(left.abs(), right.abs()) + smallest
    return bool(((left - right).abs() <= bound).all())


def _cosine(own_BD: Tensor, other_BD: Tensor) -> Tensor:
    """Compute the cosine by row (B); two rows of zeros, as in padding, count as equal."""
    cosine_B = F.cosine_similarity(own_BD, other_BD, dim=-1, eps=1e-30)
    both_zero_B = ~own_BD.any(dim=-1) & ~other_BD.any(dim=-1)
    return torch.where(both_zero_B, torch.ones_like(cosine_B), cosine_B)
