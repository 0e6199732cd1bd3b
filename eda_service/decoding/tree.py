"""Dynamic draft trees (EAGLE-2, Li et al., 2024): grown level by level along the most confident nodes, then cut to the
most confident `size`.

A node's score is the logarithm of the product of draft probabilities along its path, an estimate of the chance that
the target accepts it. A child never scores above its parent and ties keep the earlier node, so the best `size` nodes
always form a tree.

Shapes: B rows, W width (nodes expanded per level), P pool of candidates, N nodes kept; node 0 is the root, not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eda_service.targets.decoder.attention import TreeShape


@dataclass
class Candidates:
    """The pool of a growing tree.

    Attributes:
        token_ids_BP: Drafted tokens.
        scores_BP: Log-probability of the path to each token.
        parents_BP: Index of the parent within the pool; -1 for children of the root.
    """

    token_ids_BP: Tensor
    scores_BP: Tensor
    parents_BP: Tensor

    def extend(self, other: Candidates) -> Candidates:
        """Join both pools; the parents of `other` already count from the start of this one."""
        return Candidates(
            torch.cat([self.token_ids_BP, other.token_ids_BP], dim=1),
            torch.cat([self.scores_BP, other.scores_BP], dim=1),
            torch.cat([self.parents_BP, other.parents_BP], dim=1),
        )


@dataclass
class DraftTree:
    """A draft tree to verify.

    Attributes:
        token_ids_BN: Drafted tokens in level order.
        parents_BN: Node of each token's parent; 0 is the root.
        shape: Depths and ancestors of all N + 1 nodes.
    """

    token_ids_BN: Tensor
    parents_BN: Tensor
    shape: TreeShape


def keep_best(pool: Candidates, size: int, depth: int) -> DraftTree:
    """Keep the `size` best candidates of every row, as a tree of at most `depth` levels."""
    rows, total = pool.scores_BP.shape
    order_BP = torch.sort(pool.scores_BP, dim=1, descending=True, stable=True).indices
    kept_BN = order_BP[:, : min(size, total)].sort(dim=1).values
    num_kept = kept_BN.shape[1]
    nodes_N = torch.arange(1, num_kept + 1, device=kept_BN.device)
    # index of every candidate in the kept tree, with the root's at the end so that parent -1 finds it
    place_BP1 = kept_BN.new_zeros(rows, total + 1)
    place_BP1.scatter_(1, kept_BN, nodes_N.expand(rows, -1))
    parents_BN = place_BP1.gather(1, pool.parents_BP.gather(1, kept_BN) % (total + 1))
    return DraftTree(pool.token_ids_BP.gather(1, kept_BN), parents_BN, shape_of(parents_BN, depth))


def shape_of(parents_BN: Tensor, depth: int) -> TreeShape:
    """Compute depths and ancestors of a tree from its parents, by doubling the reach of the parent relation."""
    rows, num_nodes = parents_BN.shape
    size = num_nodes + 1
    reach_BSS = torch.eye(size, device=parents_BN.device).repeat(rows, 1, 1)
    reach_BSS[:, 1:].scatter_(2, parents_BN[..., None], 1.0)
    steps = 1
    while steps < depth:
        reach_BSS = (reach_BSS @ reach_BSS).clamp_(max=1.0)
        steps *= 2
    ancestors_BSS = reach_BSS > 0
    return TreeShape(ancestors_BSS.sum(-1) - 1, ancestors_BSS)
