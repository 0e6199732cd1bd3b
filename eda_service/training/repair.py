"""Repair: learning at the places of an answer where the draft, as it is now, ends a round of decoding.

Chains are run from every place of an answer as decoding runs them, on the draft's own states, and rounds walk along the
text as in `simulate`: each begins after the tokens that the one before accepted and the one of the target's own. A
round that the target ends at step j leaves one place to learn, the draft's state there with all steps before it; what
was accepted, and what no round came to, is not learnt. So the draft learns from its own mistakes (on-policy), at the
depth at which it makes them.

Shapes: B samples, S rows (starts), j step, M rows of a step that are looked at, W draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eda_service.drafts.unroll import round_starts


def hits_of(
    states: Sequence[Tensor], wanted_BS: Tensor, counts_BS: Tensor, score: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Return masks (B, S-j) of each step j: chains whose tokens are the target's up to that step.

    Args:
        states: The draft's at each step, (B, S-j, D).
        wanted_BS: The target's most likely token of the draft vocabulary at each row of step 0.
        counts_BS: Rows of step 0 whose token is in the answer.
        score: The draft's logits of states.
    """
    hits: list[Tensor] = []
    alive_BS = counts_BS
    for step, state_BSD in enumerate(states):
        rows = state_BSD.shape[1]
        alive_BS = alive_BS[:, :rows] & counts_BS[:, step:]
        # Without a gradient by `detach`: under `no_grad`, autocast would keep a cast weight that has none.
        drafted_M = score(state_BSD[alive_BS].detach()).argmax(-1)
        hits_BS = torch.zeros_like(alive_BS)
        hits_BS[alive_BS] = drafted_M == wanted_BS[:, step:][alive_BS]
        hits.append(hits_BS)
        alive_BS = hits_BS
    return hits


def rejected_places(hits: Sequence[Tensor], counts_BS: Tensor) -> list[Tensor]:
    """Return masks (B, S-j) of each step j: rows that begin a round of decoding which the target ends at that step.

    Args:
        hits: Masks that `hits_of` returned.
        counts_BS: Rows of step 0 whose token is in the answer.
    """
    accepted_BS = torch.zeros_like(counts_BS, dtype=torch.long)
    for hits_BS in hits:
        accepted_BS[:, : hits_BS.shape[1]] += hits_BS
    found = [torch.zeros_like(hits_BS, device="cpu") for hits_BS in hits]
    for sample, (counts, accepted) in enumerate(zip(counts_BS.tolist(), accepted_BS.tolist(), strict=True)):
        rows = [row for row, is_answer in enumerate(counts) if is_answer]
        for place in round_starts([accepted[row] for row in rows]):
            step = accepted[rows[place]]
            # A round that all of a chain was accepted in, or that the answer's end cut, has no place to learn.
            if step < len(hits) and place + step < len(rows):
                found[step][sample, rows[place]] = True
    return [mask_BS.to(counts_BS.device) for mask_BS in found]
