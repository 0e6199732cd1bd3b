"""Coverage: how much of a text a draft vocabulary can say at all. A token outside it ends a round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def coverage(vocab_W: Tensor | None, answers: Iterable[Sequence[int]]) -> float:
    """Share of tokens that are in a draft vocabulary; 1 where there is no token.

    Args:
        vocab_W: Token ids of the draft vocabulary; None: all.
        answers: Token ids of the target's own answers.
    """
    if vocab_W is None:
        return 1.0
    tokens = torch.tensor([token for answer in answers for token in answer], dtype=torch.long)
    if not len(tokens):
        return 1.0
    return float(torch.isin(tokens, vocab_W.cpu().long()).double().mean())
