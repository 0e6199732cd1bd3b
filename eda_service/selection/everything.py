"""A selector that keeps all samples, whatever the configured fraction: for pretraining, and for comparison."""

from __future__ import annotations

from collections.abc import Sequence

from eda_service.selection.mahalanobis import DistanceSelector


class Everything(DistanceSelector):
    """Keeps all samples; an adaptation reports their values all the same."""

    needs_scores = False

    def choose(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        """See `SampleSelector`."""
        return list(range(len(sample_ids)))

    @property
    def share(self) -> float:
        """See `SampleSelector`."""
        return 1.0
