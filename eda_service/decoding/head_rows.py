"""Heads of a batch's drafts: each row uses the head of its own draft vocabulary, and rows with equal heads run
together.

Shapes: B rows, L positions, D hidden, W draft vocabulary, V vocabulary, C most likely tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eda_service.decoding.row_groups import RowGroups
from eda_service.decoding.sampling import distribution, draw, most_likely
from eda_service.drafts.head import DraftHead


@dataclass
class Drafted:
    """One token per row.

    Attributes:
        token_ids_B: The tokens.
        probs_BV: The distributions they were drawn from; None where every row is greedy.
        own_B: The draft probability of each token; None if it was not asked for.
    """

    token_ids_B: Tensor
    probs_BV: Tensor | None
    own_B: Tensor | None


class HeadRows:
    """The heads of a batch, grouped by identity.

    Args:
        heads: The head of each row.
        device: Device of the rows.
    """

    def __init__(self, heads: Sequence[DraftHead], device: torch.device) -> None:
        self._groups = RowGroups.of(heads, device).groups
        self._smallest = min(head.linear.out_features for head, _ in self._groups)

    def next_tokens(
        self, state_B1D: Tensor, temperatures_B: Tensor | None, uniforms_B: Tensor | None, *, confident: bool
    ) -> Drafted:
        """Choose the token of each row after its state: the most likely one, or with uniforms a draw.

        Args:
            state_B1D: The draft's states.
            temperatures_B: None when every row is greedy.
            uniforms_B: Draws of the sampled rows; None when every row is greedy.
            confident: Whether to return the draft probability of each token too.
        """
        parts = []
        for head, rows in self._groups:
            taken = (state_B1D, temperatures_B, uniforms_B)
            if rows is not None:
                taken = (state_B1D[rows], _of(temperatures_B, rows), _of(uniforms_B, rows))
            parts.append(_next_tokens(head, *taken, confident=confident))
        if len(parts) == 1:
            return parts[0]
        return Drafted(
            self._join([part.token_ids_B for part in parts]),
            None if uniforms_B is None else self._join([_known(part.probs_BV) for part in parts]),
            self._join([_known(part.own_B) for part in parts]) if confident else None,
        )

    def best_tokens(self, states_BLD: Tensor, width: int, temperatures_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the C <= `width` most likely tokens after each state and their log-probabilities, both (B, L, C)."""
        count = min(width, self._smallest)
        ids, scores = [], []
        for head, rows in self._groups:
            taken = (states_BLD, temperatures_B)
            if rows is not None:
                taken = (states_BLD[rows], _of(temperatures_B, rows))
            best_ids, best_scores = _best_tokens(head, taken[0], count, taken[1])
            ids.append(best_ids)
            scores.append(best_scores)
        return (ids[0], scores[0]) if len(ids) == 1 else (self._join(ids), self._join(scores))

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        """Put results by group into the order of the rows."""
        out = parts[0].new_empty(sum(len(part) for part in parts), *parts[0].shape[1:])
        for (_, rows), part in zip(self._groups, parts, strict=True):
            out[rows] = part
        return out


def _next_tokens(
    head: DraftHead, state_B1D: Tensor, temperatures_B: Tensor | None, uniforms_B: Tensor | None, *, confident: bool
) -> Drafted:
    logits_B1W = head(state_B1D)
    probs_BV = None
    if temperatures_B is None or uniforms_B is None:
        draft_ids_B = most_likely(logits_B1W).squeeze(1)
    else:
        probs_BW = distribution(logits_B1W, temperatures_B).squeeze(1)
        draft_ids_B = draw(probs_BW, uniforms_B)
        probs_BV = head.scatter_probs(probs_BW)
    own_B = None
    if confident:
        log_probs_BW = torch.log_softmax(logits_B1W.squeeze(1).float(), dim=-1)
        own_B = log_probs_BW.gather(1, draft_ids_B[:, None]).squeeze(1).exp()
    return Drafted(head.to_token_ids(draft_ids_B), probs_BV, own_B)


def _best_tokens(
    head: DraftHead, states_BLD: Tensor, count: int, temperatures_B: Tensor | None
) -> tuple[Tensor, Tensor]:
    logits = head(states_BLD).float()
    if temperatures_B is not None:
        logits = logits / torch.where(temperatures_B == 0, 1.0, temperatures_B)[:, None, None]
    best = torch.log_softmax(logits, dim=-1).topk(count, dim=-1)
    return head.to_token_ids(best.indices), best.values


def _of(values_B: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if values_B is None else values_B[rows]


def _known(values: Tensor | None) -> Tensor:
    assert values is not None
    return values
