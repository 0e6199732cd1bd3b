"""Draft vocabulary: the tokens a draft scores, ranked by frequency in the answers of the self-generated set (ADR
0004), and how much of a target's text the vocabulary of a draft that came with one covers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from eda_service.errors import InputError

LEAST_COVERAGE = 0.95
"""Below this share of covered tokens a draft's vocabulary is said to be too small: what it cannot say ends a round, so
that at 95 % a chain of five loses about a tenth of its length.
"""


@dataclass(frozen=True)
class Coverage:
    """A draft vocabulary beside a target's answers.

    Attributes:
        vocab_W: The vocabulary, tokens that were added to it last.
        share: Of the answers' tokens that the draft can say, without those added.
        missing: How often each other token came.
    """

    vocab_W: Tensor
    share: float
    missing: Counter[int]


def coverage(answers: Iterable[list[int]], vocab_W: Tensor) -> Coverage:
    """Count the tokens of answers that a draft vocabulary holds; all of them where there are no answers."""
    counts: Counter[int] = Counter()
    for answer in answers:
        counts.update(answer)
    known = set(vocab_W.tolist())
    missing = Counter({token: count for token, count in counts.items() if token not in known})
    total = counts.total()
    return Coverage(vocab_W, 1.0 - missing.total() / total if total else 1.0, missing)


def extend_vocabulary(covered: Coverage, count: int, vocab_size: int) -> Tensor:
    """The vocabulary with the `count` missing tokens that came most often behind it; filled up by id.

    Raises:
        InputError: There are not so many tokens besides.
    """
    known = set(covered.vocab_W.tolist())
    if count > vocab_size - len(known):
        raise InputError(
            f"train.extend_draft_vocab is {count}, and the draft lacks only {vocab_size - len(known)} of the target's "
            f"{vocab_size} tokens; lower it",
            param="train.extend_draft_vocab",
        )
    ranked = [token for token, _ in sorted(covered.missing.items(), key=lambda item: (-item[1], item[0]))]
    others = (token for token in range(vocab_size) if token not in known and token not in covered.missing)
    added = list(islice(chain(ranked, others), count))
    return torch.cat([covered.vocab_W.int(), torch.tensor(sorted(added), dtype=torch.int32)])


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
