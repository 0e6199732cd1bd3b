"""Draft vocabulary: the tokens a draft scores, ranked by frequency in the answers of the self-generated set (ADR
0004).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor


def rank_vocabulary(answers: Iterable[list[int]], size: int | None, vocab_size: int) -> Tensor | None:
    """The `size` most frequent answer tokens in ascending id order; None for the full vocabulary.

    Tokens that never occur fill up by id, so the result has exactly `size` entries.
    """
    if size is None or size >= vocab_size:
        return None
    counts: Counter[int] = Counter()
    for answer in answers:
        counts.update(answer)
    ranked = [token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))][:size]
    chosen = set(ranked)
    for token in range(vocab_size):
        if len(chosen) == size:
            break
        chosen.add(token)
    return torch.tensor(sorted(chosen), dtype=torch.int32)
