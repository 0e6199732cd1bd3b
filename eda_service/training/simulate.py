"""Simulated acceptance: Eq. 2 on held-out samples from an unrolled chain, without decoding.

Row s accepts step j while the draft's most likely token equals the target's at every step up to j. Rounds follow the
sample's own text as decoding would: the next one begins after the accepted tokens and the correction. Counting every
row as a start would weigh easy passages by their length (measured: 2.8 against 2.3 decoded). It costs one forward pass
and is used to rank checkpoints.

Shapes: B samples, S rows, D hidden, W draft vocabulary, K steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from eda_service.drafts.draft import Draft
from eda_service.drafts.unroll import num_rounds, unroll
from eda_service.targets.head import LmHead
from eda_service.training.batches import Batch
from eda_service.training.loss import step_mask


@torch.no_grad()
def simulated_acceptance_length(
    draft: Draft, batches: Iterable[Batch], embed: nn.Module, lm_head: LmHead, *, depth: int
) -> float:
    """Compute tokens per round over all answers, for chains of `depth` tokens; 1 if there is nothing to count."""
    tokens = rounds = 0
    for batch in batches:
        starts_BS = step_mask(batch, 0)
        accepted_BS = torch.zeros_like(starts_BS, dtype=torch.long)
        alive_BS = starts_BS
        ids_BL, is_started = batch.token_ids_BL, batch.is_started
        steps = unroll(draft, embed, ids_BL, batch.features_BLD, depth, is_started=is_started)
        for step, state_BSD in enumerate(steps):
            mask_BS = step_mask(batch, step)
            wanted_BSD = batch.head_in[:, step + 1 : -1]
            hits_BS = torch.zeros_like(mask_BS)
            drafted_M = draft.logits(state_BSD[mask_BS], lm_head).argmax(-1)
            hits_BS[mask_BS] = drafted_M == lm_head.logits(wanted_BSD[mask_BS]).argmax(-1)
            alive_BS = alive_BS[:, : hits_BS.shape[1]] & hits_BS
            accepted_BS[:, : alive_BS.shape[1]] += alive_BS
        for starts, accepted in zip(starts_BS.tolist(), accepted_BS.tolist(), strict=True):
            rows = [accepted[s] for s, starting in enumerate(starts) if starting]
            tokens, rounds = tokens + len(rows), rounds + num_rounds(rows)
    return tokens / rounds if rounds else 1.0
