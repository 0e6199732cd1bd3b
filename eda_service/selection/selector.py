"""The protocol of selectors: how samples are measured, which are kept, and how many.

Each answer is measured in the pass that generates it (`Scorer`), and some of the samples are kept (`keep`). A
`ReferenceSelector` measures against what it was fitted on, the target's answers to general prompts; a `DraftSelector`
holds the job's base draft against what the target wrote. A new one is a subclass of either, a word of the config's
enum, and its line in `kinds`; the stages and the plan ask the object. Pure: values in, values out.

Shapes: N reference tokens, D hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from eda_service.config.job import SelectionConfig
from eda_service.errors import DatasetInvalidError

if TYPE_CHECKING:  # plans ask selectors for less, and do without torch
    from eda_service.drafts.checkpoint import LoadedDraft
    from eda_service.storage.samples.shards import Sample
    from eda_service.targets.ends import TargetEnds

Array = NDArray[np.float64]


class Scorer(Protocol):
    """Measures samples."""

    def sample_value(self, sample: Sample) -> float:
        """Compute the value of one sample, whose states are in memory."""


class FittedScorer(Scorer, Protocol):
    """Measures samples against fitted statistics."""

    def save(self, path: Path) -> None:
        """Write the fitted statistics, for `ReferenceSelector.load`."""


class SampleSelector(ABC):
    """One way of choosing samples.

    Args:
        config: Settings of selection of the job.

    Attributes:
        needs_scores: Whether samples are always measured for it; otherwise only if an adaptation reports their values.
        value_name: Name of its value of a sample, as a word of records.
    """

    needs_scores: ClassVar[bool] = True
    value_name: ClassVar[str]

    def __init__(self, config: SelectionConfig) -> None:
        self.config = config

    def keep(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        """Return the indices of the kept samples, in the order of the input.

        Args:
            sample_ids: Unique ids of the samples.
            values: `sample_value` of each sample; 0 if it was not measured.
            seed: Seed of the job.

        Raises:
            DatasetInvalidError: There are no samples.
        """
        if not sample_ids:
            raise DatasetInvalidError(
                "there are no samples to select from; check the skipped rows of the generate stage"
            )
        return sorted(self.choose(sample_ids, values, seed=seed))

    @abstractmethod
    def choose(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        """Return the indices of the kept samples in any order; there is at least one sample."""

    def threshold(self, _kept: Sequence[float]) -> float | None:
        """Return the value at which the kept samples end, for the report; None if values do not decide."""
        return None

    @property
    def share(self) -> float:
        """Expected share of samples that are kept, 0 to 1."""
        return self.config.keep_fraction


class ReferenceSelector(SampleSelector):
    """Measures samples against the target's answers to general prompts, on which it is fitted before."""

    @abstractmethod
    def fit(self, states_ND: Array) -> FittedScorer:
        """Fit on what the target's head reads at the tokens of its answers to general prompts.

        Raises:
            DatasetInvalidError: The states are too few or not finite.
        """

    @abstractmethod
    def load(self, path: Path) -> FittedScorer:
        """Load the file that `FittedScorer.save` wrote, with this config's other settings."""


class DraftSelector(SampleSelector):
    """Measures samples by what the job's base draft makes of them, and keeps those of the largest value; ties go by id.

    Attributes:
        compares_distributions: The target's distributions are made anew from its states, which takes a product of its
            head for each token; without, its tokens suffice.
    """

    compares_distributions: ClassVar[bool]

    @abstractmethod
    def beside(self, loaded: LoadedDraft, target: TargetEnds) -> Scorer:
        """Return the scorer that measures samples with the draft.

        Args:
            loaded: The base draft, on the target's device and in its dtype.
            target: Target that wrote the samples.
        """

    def choose(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        """See `SampleSelector`."""
        return largest(sample_ids, values, self.config.keep_fraction)

    def threshold(self, kept: Sequence[float]) -> float | None:
        """See `SampleSelector`."""
        return min(kept)


def num_kept(num_samples: int, keep_fraction: float) -> int:
    """Compute K of Eq. 15: the fraction of the samples rounded half up, at least 1."""
    return max(1, int(num_samples * keep_fraction + 0.5))


def largest(sample_ids: Sequence[str], values: Sequence[float], keep_fraction: float) -> list[int]:
    """Eq. 15: indices of the top K by value; ties go by sample id."""
    count = num_kept(len(sample_ids), keep_fraction)
    return sorted(by_id(sample_ids), key=lambda index: -values[index])[:count]


def by_id(sample_ids: Sequence[str]) -> list[int]:
    """Return indices in the order of the ids, so that a choice does not depend on the order of the input."""
    return sorted(range(len(sample_ids)), key=lambda index: sample_ids[index])
