"""Coverage: the share of a text's tokens that a draft vocabulary contains. A token outside it ends a round.

Shapes: W draft vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Coverage:
    """Coverage of a target's answers by a draft vocabulary.

    Attributes:
        share: Share of the answers' tokens that the draft can propose; 1 if there are no tokens.
        missing: Number of occurrences of each token outside the vocabulary.
    """

    share: float
    missing: Counter[int]

    def rows_for(self, share: float) -> int | None:
        """Return how many of the most frequent missing tokens raise the share to at least `share`.

        Args:
            share: Wanted share, 0 to 1.

        Returns:
            The number; 0 if the share is reached already; None if not even all missing tokens reach it (a share above
            1).
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
