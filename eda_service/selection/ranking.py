"""Ranking and budget, Eq. 15: keep the top K samples by value; and the selectors it is compared with.

Pure: values in, indices out. Ties go by sample id, so the result does not depend on the order of the input.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from eda_service.config.job import Selector
from eda_service.errors import DatasetInvalidError


def num_kept(num_samples: int, keep_fraction: float) -> int:
    """K of Eq. 15: the fraction rounded half up, at least 1."""
    return max(1, int(num_samples * keep_fraction + 0.5))


def select(
    sample_ids: Sequence[str], values: Sequence[float], method: Selector, keep_fraction: float, *, seed: int
) -> list[int]:
    """Indices of the kept samples, in the order of the input.

    Args:
        sample_ids: Unique ids.
        values: sample_value of each (Eq. 14); unused by random and all.
        method: pca keeps the largest, reversed the smallest, random a seeded draw, all everything.
        keep_fraction: Share kept, above 0 up to 1.
        seed: Of the random selector.

    Raises:
        DatasetInvalidError: There are no samples.
    """
    if not sample_ids:
        raise DatasetInvalidError("there are no samples to select from; check the skipped rows of the generate stage")
    if method is Selector.ALL:
        return list(range(len(sample_ids)))
    count = num_kept(len(sample_ids), keep_fraction)
    by_id = sorted(range(len(sample_ids)), key=lambda i: sample_ids[i])
    if method is Selector.RANDOM:
        return sorted(random.Random(seed).sample(by_id, count))
    sign = -1.0 if method is Selector.PCA else 1.0
    return sorted(sorted(by_id, key=lambda i: sign * values[i])[:count])
