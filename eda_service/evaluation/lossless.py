"""T=0 losslessness: speculative output against autoregressive output, token by token.

In float32 with packed weights they are equal. In bfloat16, kernels of other shapes round differently, so a first
difference counts as a near tie when the target itself, run once over the common prefix, puts the two tokens' logits
within the rounding bound of its dtype; anything else is a defect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from eda_service.records import LosslessCheck
from eda_service.target.loader import Target

_ROUNDING_STEPS = 4


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """Index of the first differing token, or None where the sequences are equal."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return i
    return None if len(left) == len(right) else min(len(left), len(right))


@torch.inference_mode()
def tie_gap(target: Target, prefix: Sequence[int], left: int, right: int) -> tuple[float, float]:
    """(difference of the target's logits of two tokens after `prefix`, the most that rounding explains)."""
    ids_1L = torch.tensor([list(prefix)], device=target.device)
    features = target.forward(ids_1L, target.new_cache(1, len(prefix)), [0])
    logits_V = target.head(features[:, -1:])[0, 0].float()
    bound = _ROUNDING_STEPS * torch.finfo(target.dtype).eps * float(logits_V.abs().max())
    return abs(float(logits_V[left] - logits_V[right])), bound


def check_lossless(
    target: Target, prompts: Sequence[Sequence[int]], plain: Sequence[list[int]], speculative: Sequence[list[int]]
) -> LosslessCheck:
    """Compare answers pair by pair."""
    identical = different = 0
    gaps: list[float] = []
    for ids, left, right in zip(prompts, plain, speculative, strict=True):
        at = first_difference(left, right)
        if at is None:
            identical += 1
            continue
        gap, bound = math.inf, 0.0
        if at < min(len(left), len(right)):
            gap, bound = tie_gap(target, [*ids, *left[:at]], left[at], right[at])
        if gap <= bound:
            gaps.append(gap)
        else:
            different += 1
    return LosslessCheck(
        num_prompts=len(prompts),
        num_identical=identical,
        num_near_ties=len(gaps),
        num_different=different,
        largest_tie_gap=max(gaps, default=0.0),
        dtype=str(target.dtype).removeprefix("torch."),
    )
