"""Draft vocabulary: the tokens a draft scores, ranked by frequency in the answers of the self-generated set (ADR 0004),
and the tokens added to the vocabulary of an existing draft.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain, islice

import torch
from torch import Tensor

from eda_service.errors import InputError


def extend_vocabulary(vocab_W: Tensor, missing: Mapping[int, int], count: int, vocab_size: int) -> Tensor:
    """Append the `count` most frequent missing tokens to a draft vocabulary; if too few are missing, fill up by id.

    Raises:
        InputError: Fewer than `count` tokens are outside the vocabulary.
    """
    known = set(vocab_W.tolist())
    if count > vocab_size - len(known):
        raise InputError(
            f"train.extend_draft_vocab is {count}, and the draft lacks only {vocab_size - len(known)} of the target's "
            f"{vocab_size} tokens; lower it",
            param="train.extend_draft_vocab",
        )
    ranked = [token for token, _ in sorted(missing.items(), key=lambda item: (-item[1], item[0]))]
    others = (token for token in range(vocab_size) if token not in known and token not in missing)
    added = list(islice(chain(ranked, others), count))
    return torch.cat([vocab_W.int(), torch.tensor(sorted(added), dtype=torch.int32)])


def rank_vocabulary(answers: Iterable[list[int]], size: int | None, vocab_size: int) -> Tensor | None:
    """Return the `size` most frequent answer tokens in ascending id order; None for the full vocabulary.

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
