"""Simulated acceptance: Eq. 2 on held-out samples from an unrolled chain, without decoding.

Row s accepts step j while the draft's most likely token equals the target's at every step up to j. Along the sample's
own text this is the greedy chain's acceptance; it ranks checkpoints at the price of one forward pass.

Shapes: B samples, S rows, D hidden, W draft vocabulary, K steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.model.draft import Draft
from eda_service.training.batches import Batch
from eda_service.training.loss import step_mask
from eda_service.training.unroll import unroll


@torch.no_grad()
def simulated_acceptance_length(
    draft: Draft, batches: Iterable[Batch], embed: nn.Module, head_WD: Tensor, *, depth: int
) -> float:
    """1 + mean accepted over all answer positions, for chains of `depth` tokens."""
    accepted, count = 0.0, 0
    for batch in batches:
        alive_BS: Tensor | None = None
        for step, predicted_BSD in enumerate(unroll(draft, embed, batch.token_ids_BL, batch.features_BLD, depth)):
            mask_BS = step_mask(batch, step)
            if step == 0:
                alive_BS = mask_BS
                count += int(mask_BS.sum())
            assert alive_BS is not None
            wanted_BSD = batch.features_BLD[:, step + 1 : -1]
            hits_M = _top(predicted_BSD[mask_BS], head_WD) == _top(wanted_BSD[mask_BS], head_WD)
            hits_BS = torch.zeros_like(mask_BS)
            hits_BS[mask_BS] = hits_M
            alive_BS = alive_BS[:, : hits_BS.shape[1]] & hits_BS
            accepted += float(alive_BS.sum())
    return 1.0 + accepted / max(1, count)


def _top(features_MD: Tensor, head_WD: Tensor) -> Tensor:
    return F.linear(features_MD, head_WD).argmax(-1)
