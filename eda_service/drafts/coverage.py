"""Coverage: how much of a text a draft vocabulary can say at all. A token outside it ends a round.

Shapes: W draft vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Coverage:
    """A draft vocabulary beside a target's answers.

    Attributes:
        share: Of the answers' tokens that the draft can say; 1 where there is no token.
        missing: How often each other token came.
    """

    share: float
    missing: Counter[int]


def coverage(vocab_W: Tensor | None, answers: Iterable[Sequence[int]]) -> Coverage:
    """Count the tokens of a text that are in a draft vocabulary.

    Args:
        vocab_W: Token ids of the draft vocabulary; None: all.
        answers: Token ids of the target's own answers.
    """
    if vocab_W is None:
        return Coverage(1.0, Counter())
    counts: Counter[int] = Counter()
    for answer in answers:
        counts.update(answer)
    known = set(vocab_W.tolist())
    missing = Counter({token: count for token, count in counts.items() if token not in known})
    total = counts.total()
    return Coverage(1.0 - missing.total() / total if total else 1.0, missing)
