"""Verification: which drafted tokens are accepted and which token the target adds.

Chains at T>0 follow Leviathan et al. (2023, Algorithm 1): draft token k is accepted with probability min(1, p_k / q_k);
at the first rejection the correction token is drawn from norm(max(p - q, 0)), and when all K are accepted the bonus
token from the target's next distribution. The output is then distributed as the target's own samples, whatever q is.

Trees at T>0 follow recursive rejection over a node's children. A tree's children are chosen, not drawn, so each is a
proposal of probability one: child x is accepted with probability p(x), else p continues as norm(p with x taken out).
That is the same as drawing one token from p and looking for it among the children (docs/explanation/decoding.md, with
the proof), which is how it is computed: one draw per node, from the request's own stream and in the order of the
output's tokens. A sampled answer therefore equals, token by token, what the same seed gives without a draft.

Shapes: B rows, K draft tokens of a chain, N drafted nodes of a tree, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eda_service.decoding.sampling import draw
from eda_service.decoding.tree import DraftTree


@dataclass
class TreeVerdict:
    """The nodes of a tree that a round accepted.

    The result of verifying a tree.
        num_accepted_B: Length of the accepted path.
        next_ids_B: The correction or bonus token.
        path_BK: Nodes of the accepted path in order (1..N), then zeros; K is the tree's depth.
    """

    num_accepted_B: Tensor
    next_ids_B: Tensor
    path_BK: Tensor


def verify_greedy(
    target_ids_BK1: Tensor, draft_ids_BK: Tensor, speculates_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Verify at T=0: a draft token is accepted while it equals the target's argmax.

    Args:
        target_ids_BK1: The target's argmax after the last token and after each draft token, (B, K+1).
        draft_ids_BK: Proposed tokens.
        speculates_B: Whether a row takes draft tokens; None: every row does.

    Returns:
        (num_accepted_B, next_ids_B): accepted prefix length, and the correction or bonus token.
    """
    agree_BK = target_ids_BK1[:, :-1] == draft_ids_BK
    if speculates_B is not None:
        agree_BK = agree_BK & speculates_B[:, None]
    num_accepted_B = agree_BK.long().cumprod(dim=1).sum(dim=1)
    next_ids_B = target_ids_BK1.gather(1, num_accepted_B[:, None]).squeeze(1)
    return num_accepted_B, next_ids_B


def verify_sampled(
    target_probs_BK1V: Tensor,
    draft_probs_BKV: Tensor,
    draft_ids_BK: Tensor,
    uniforms_BK1: Tensor,
    speculates_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Verify at T>0, with the acceptance rule and the residual draw.

    Args:
        target_probs_BK1V: The target's distributions, (B, K+1, V).
        draft_probs_BKV: The distributions the draft tokens were drawn from.
        draft_ids_BK: Proposed tokens.
        uniforms_BK1: K uniforms for acceptance and one for the token that the target adds, (B, K+1).
        speculates_B: Whether a row takes draft tokens; None: every row does.

    Returns:
        (num_accepted_B, next_ids_B): accepted prefix length, and the correction or bonus token.
    """
    num_draft = draft_ids_BK.shape[1]
    target_BK = target_probs_BK1V[:, :num_draft].gather(2, draft_ids_BK[..., None]).squeeze(2)
    draft_BK = draft_probs_BKV.gather(2, draft_ids_BK[..., None]).squeeze(2)
    accept_BK = uniforms_BK1[:, :num_draft] * draft_BK < target_BK
    if speculates_B is not None:
        accept_BK = accept_BK & speculates_B[:, None]
        draft_probs_BKV = draft_probs_BKV * speculates_B[:, None, None]  # nothing proposed, nothing to subtract
    num_accepted_B = accept_BK.long().cumprod(dim=1).sum(dim=1)
    rows_B = torch.arange(draft_ids_BK.shape[0], device=draft_ids_BK.device)
    target_BV = target_probs_BK1V[rows_B, num_accepted_B]
    padded_BK1V = torch.cat([draft_probs_BKV, torch.zeros_like(target_probs_BK1V[:, :1])], dim=1)
    next_ids_B = draw(residual(target_BV, padded_BK1V[rows_B, num_accepted_B]), uniforms_BK1[:, num_draft])
    return num_accepted_B, next_ids_B


def residual(target_probs_BV: Tensor, draft_probs_BV: Tensor) -> Tensor:
    """Return max(p - q, 0), unnormalised; where rounding leaves nothing (p equals q), return p itself."""
    rest_BV = (target_probs_BV - draft_probs_BV).clamp_(min=0.0)
    empty_B1 = rest_BV.sum(-1, keepdim=True) <= 0
    return torch.where(empty_B1, target_probs_BV, rest_BV)


def verify_tree(chosen_ids_BN1: Tensor, tree: DraftTree, depth: int, speculates_B: Tensor | None = None) -> TreeVerdict:
    """Follow the target's choices down the tree until a choice is no drafted node.

    Args:
        chosen_ids_BN1: The token that the target chooses after each node (0 is the root): its argmax, or at T>0 its
            draw, with one uniform for all nodes of a depth. A row drafts no token twice under one parent, so at most
            one path fits.
        tree: Drafted nodes.
        depth: Levels of the tree.
        speculates_B: Whether a row takes draft tokens; None: every row does.
    """
    fits_BN = chosen_ids_BN1.gather(1, tree.parents_BN) == tree.token_ids_BN
    if speculates_B is not None:
        fits_BN = fits_BN & speculates_B[:, None]
    misfit_BN1 = torch.cat([torch.zeros_like(fits_BN[:, :1]), ~fits_BN], dim=1)
    alive_BN1 = ~(misfit_BN1[:, None] & tree.shape.ancestors_BLL).any(-1)
    num_accepted_B, last_B = torch.where(alive_BN1, tree.shape.depths_BL, -1).max(dim=1)
    next_ids_B = chosen_ids_BN1.gather(1, last_B[:, None]).squeeze(1)
    rows_B = torch.arange(len(last_B), device=last_B.device)
    on_path_BN1 = tree.shape.ancestors_BLL[rows_B, last_B]
    nodes_N1 = torch.arange(on_path_BN1.shape[1], device=last_B.device)
    behind = on_path_BN1.shape[1]
    path_BN1 = torch.where(on_path_BN1, nodes_N1, behind).sort(dim=1).values
    path_BK = path_BN1[:, 1 : depth + 1]
    return TreeVerdict(num_accepted_B, next_ids_B, torch.where(path_BK == behind, 0, path_BK))
