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

    def rows_for(self, share: float) -> int | None:
        """How many of the most frequent missing tokens bring the share to at least this one.

        Args:
            share: Wanted.

        Returns:
            0 where it is there already; None where not even all of them do, which takes a share above 1.
        """
        lacking = self.missing.total()
        if self.share >= share:
            return 0
        total = round(lacking / (1.0 - self.share))
        for num_rows, (_, count) in enumerate(self.missing.most_common(), start=1):
            lacking -= count
            if 1.0 - lacking / total >= share:
                return num_rows
        return None


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
