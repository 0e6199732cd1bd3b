"""The test whether two sets of sampled answers have the same distribution: chi-square, token by token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from scipy import stats

_LEAST = 10

Samples = Sequence[Sequence[Sequence[int]]]


def same_law(left: Samples, right: Samples, num_tokens: int) -> list[float]:
    """Compute the p-value of each token position; prompts are independent, so their statistics add up.

    Args:
        left: Answers to each prompt, as token ids.
        right: Answers to the same prompts, in the same order.
        num_tokens: Number of positions to compare; an answer that ended before counts as an outcome of its own.
    """
    found = []
    for place in range(num_tokens):
        total, freedom = 0.0, 0
        for ours, theirs in zip(left, right, strict=True):
            statistic, degrees = _two_samples(_tokens(ours, place), _tokens(theirs, place))
            total, freedom = total + statistic, freedom + degrees
        found.append(float(stats.chi2.sf(total, freedom)) if freedom else 1.0)
    return found


def _tokens(answers: Sequence[Sequence[int]], place: int) -> Counter[int]:
    return Counter(ids[place] if place < len(ids) else -1 for ids in answers)


def _two_samples(left: Counter[int], right: Counter[int]) -> tuple[float, int]:
    """Compute (statistic, degrees of freedom) of two samples over the same outcomes, rare ones pooled."""
    both = left + right
    common = [token for token, count in both.items() if count >= _LEAST]
    table = [[counts[token] for token in common] for counts in (left, right)]
    rest = [counts.total() - sum(row) for counts, row in zip((left, right), table, strict=True)]
    if sum(rest):
        table = [[*row, other] for row, other in zip(table, rest, strict=True)]
    if len(table[0]) < 2:
        return 0.0, 0
    result = stats.chi2_contingency(table, correction=False)
    return float(result.statistic), int(result.dof)
