"""Selection by the distance of answers from general ones (Eqs. 11-15): the paper's selector, and its reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eda_service.selection.distance import sample_value, sq_distances
from eda_service.selection.projection import ReferenceStatistics, fit_reference
from eda_service.selection.selector import Array, SampleSelector, by_id, num_kept


@dataclass(frozen=True)
class DistanceScorer:
    """Eqs. 13 and 14 against fitted statistics.

    Attributes:
        reference: Statistics of Eqs. 11 and 12.
        quantile: rho of Eq. 14.
    """

    reference: ReferenceStatistics
    quantile: float

    def save(self, path: Path) -> None:
        """See `Scorer`."""
        self.reference.save(path)

    def sample_value(self, states_AD: Array) -> float:
        """See `Scorer`."""
        return sample_value(sq_distances(states_AD, self.reference), self.quantile)


class DistanceSelector(SampleSelector):
    """Measures distances; subclasses decide which samples are kept."""

    def fit(self, states_ND: Array) -> DistanceScorer:
        """See `SampleSelector`."""
        config = self.config
        reference = fit_reference(states_ND, pca_dim=config.pca_dim, ridge=config.covariance_ridge)
        return DistanceScorer(reference, config.quantile)

    def load(self, path: Path) -> DistanceScorer:
        """See `SampleSelector`."""
        return DistanceScorer(ReferenceStatistics.load(path), self.config.quantile)


class LargestDistance(DistanceSelector):
    """Keeps the top K by value, Eq. 15; ties are resolved by sample id."""

    def choose(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        """See `SampleSelector`."""
        count = num_kept(len(sample_ids), self.config.keep_fraction)
        return sorted(by_id(sample_ids), key=lambda index: self.place(values[index]))[:count]

    def place(self, value: float) -> float:
        """Sort key of a sample in the ranking; the lowest comes first."""
        return -value

    def threshold(self, kept: Sequence[float]) -> float | None:
        """See `SampleSelector`."""
        return min(kept)


class SmallestDistance(LargestDistance):
    """Keeps the K samples with the smallest values, for comparison."""

    def place(self, value: float) -> float:
        """See `LargestDistance`."""
        return value
