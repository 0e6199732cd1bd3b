"""Verification of a drafted chain: which tokens stay and what the target adds (Leviathan et al., 2023, Algorithm 1).

Draft token k is accepted with probability min(1, p_k / q_k); at the first rejection the correction token is drawn from
norm(max(p - q, 0)), and when all K are accepted the bonus token from the target's next distribution. The output is then
distributed as the target's own samples, whatever q is.

Shapes: B rows, K draft tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eda_service.decoding.sampling import draw


def verify_greedy(target_ids_BK1: Tensor, draft_ids_BK: Tensor) -> tuple[Tensor, Tensor]:
    """T=0: a draft token is accepted while it equals the target's argmax.

    Args:
        target_ids_BK1: The target's argmax after the last token and after each draft token, (B, K+1).
        draft_ids_BK: Proposed tokens.

    Returns:
        (num_accepted_B, next_ids_B): accepted prefix length, and the correction or bonus token.
    """
    agree_BK = (target_ids_BK1[:, :-1] == draft_ids_BK).long()
    num_accepted_B = agree_BK.cumprod(dim=1).sum(dim=1)
    next_ids_B = target_ids_BK1.gather(1, num_accepted_B[:, None]).squeeze(1)
    return num_accepted_B, next_ids_B


def verify_sampled(
    target_probs_BK1V: Tensor, draft_probs_BKV: Tensor, draft_ids_BK: Tensor, uniforms_BK1: Tensor
) -> tuple[Tensor, Tensor]:
    """T>0: the acceptance rule and the residual draw.

    Args:
        target_probs_BK1V: The target's distributions, (B, K+1, V).
        draft_probs_BKV: The distributions the draft tokens were drawn from.
        draft_ids_BK: Proposed tokens.
        uniforms_BK1: K acceptance draws and one for the token the target adds, (B, K+1).

    Returns:
        (num_accepted_B, next_ids_B).
    """
    num_draft = draft_ids_BK.shape[1]
    target_BK = target_probs_BK1V[:, :num_draft].gather(2, draft_ids_BK[..., None]).squeeze(2)
    draft_BK = draft_probs_BKV.gather(2, draft_ids_BK[..., None]).squeeze(2)
    accept_BK = (uniforms_BK1[:, :num_draft] * draft_BK < target_BK).long()
    num_accepted_B = accept_BK.cumprod(dim=1).sum(dim=1)
    rows_B = torch.arange(draft_ids_BK.shape[0], device=draft_ids_BK.device)
    target_BV = target_probs_BK1V[rows_B, num_accepted_B]
    padded_BK1V = torch.cat([draft_probs_BKV, torch.zeros_like(target_probs_BK1V[:, :1])], dim=1)
    next_ids_B = draw(residual(target_BV, padded_BK1V[rows_B, num_accepted_B]), uniforms_BK1[:, num_draft])
    return num_accepted_B, next_ids_B


def residual(target_probs_BV: Tensor, draft_probs_BV: Tensor) -> Tensor:
    """max(p - q, 0), unnormalised; where rounding leaves nothing (p equals q) it is p itself."""
    rest_BV = (target_probs_BV - draft_probs_BV).clamp_(min=0.0)
    empty_B1 = rest_BV.sum(-1, keepdim=True) <= 0
    return torch.where(empty_B1, target_probs_BV, rest_BV)
