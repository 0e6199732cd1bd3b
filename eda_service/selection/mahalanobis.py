"""Selection by the distance of answers from general ones (Eqs. 11-15): the paper's selector, and its reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from eda_service.selection.distance import sample_value, sq_distances
from eda_service.selection.projection import ReferenceStatistics, fit_reference
from eda_service.selection.selector import Array, ReferenceSelector, largest

if TYPE_CHECKING:
    from eda_service.storage.samples.shards import Sample


@dataclass(frozen=True)
class DistanceScorer:
    """Eqs. 13 and 14 against fitted statistics, in float64.

    Attributes:
        reference: Statistics of Eqs. 11 and 12.
        quantile: rho of Eq. 14.
    """

    reference: ReferenceStatistics
    quantile: float

    def save(self, path: Path) -> None:
        """See `FittedScorer`."""
        self.reference.save(path)

    def sample_value(self, sample: Sample) -> float:
        """See `Scorer`."""
        states_AD = sample.answer_states().double().cpu().numpy()
        return sample_value(sq_distances(states_AD, self.reference), self.quantile)


class DistanceSelector(ReferenceSelector):
    """Measures distances; subclasses decide which samples are kept."""

    value_name: ClassVar[str] = "distance"

    def fit(self, states_ND: Array) -> DistanceScorer:
        """See `ReferenceSelector`."""
        config = self.config
        reference = fit_reference(states_ND, pca_dim=config.pca_dim, ridge=config.covariance_ridge)
        return DistanceScorer(reference, config.quantile)

    def load(self, path: Path) -> DistanceScorer:
        """See `ReferenceSelector`."""
        return DistanceScorer(ReferenceStatistics.load(path), self.config.quantile)


class LargestDistance(DistanceSelector):
    """Keeps the top K by value, Eq. 15; ties are resolved by sample id."""

    def choose(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        """See `SampleSelector`."""
        return largest(sample_ids, values, self.config.keep_fraction)

    def threshold(self, kept: Sequence[float]) -> float | None:
        """See `SampleSelector`."""
        return min(kept)


class SmallestDistance(DistanceSelector):
    """Keeps the K samples with the smallest values, for comparison."""

    def choose(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        """See `SampleSelector`."""
        return largest(sample_ids, [-value for value in values], self.config.keep_fraction)
