"""A seeded random selection, for comparison; values are measured and reported all the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

from eda_service.selection.mahalanobis import DistanceSelector
from eda_service.selection.selector import by_id, num_kept


class RandomDraw(DistanceSelector):
    """Keeps as many samples as the ranking would."""

    def choose(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        """See `SampleSelector`."""
        count = num_kept(len(sample_ids), self.config.keep_fraction)
        return random.Random(seed).sample(by_id(sample_ids), count)
