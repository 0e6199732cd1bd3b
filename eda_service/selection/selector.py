"""The protocol of selectors: how samples are measured, which are kept, and how many.

A selector fits its reference statistics on general prompts (`fit`), measures each answer in the pass that generates it
(`Scorer`), and keeps some of the samples (`keep`). A new one is a subclass here, a word of the config's enum, and its
line in `kinds`; the stages and the plan ask the object. Pure: values in, values out.

Shapes: N reference tokens, A answer tokens of one sample, D hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from eda_service.config.job import SelectionConfig
from eda_service.errors import DatasetInvalidError

Array = NDArray[np.float64]


class Scorer(Protocol):
    """Measures samples."""

    def save(self, path: Path) -> None:
        """Write the fitted statistics, for `SampleSelector.load`."""

    def sample_value(self, states_AD: Array) -> float:
        """Compute the value of one sample from the inputs of the target's head at its answer's tokens."""


class SampleSelector(ABC):
    """One way of choosing samples.

    Args:
        config: Settings of selection of the job.

    Attributes:
        needs_scores: Whether samples are always measured for it; otherwise only if an adaptation reports their values.
    """

    needs_scores: ClassVar[bool] = True

    def __init__(self, config: SelectionConfig) -> None:
        self.config = config

    @abstractmethod
    def fit(self, states_ND: Array) -> Scorer:
        """Fit on the inputs of the target's head at the tokens of its answers to general prompts.

        Raises:
            DatasetInvalidError: The states are too few or not finite.
        """

    @abstractmethod
    def load(self, path: Path) -> Scorer:
        """Load what `Scorer.save` wrote, with this config's other settings."""

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


def num_kept(num_samples: int, keep_fraction: float) -> int:
    """Compute K of Eq. 15: the fraction of the samples rounded half up, at least 1."""
    return max(1, int(num_samples * keep_fraction + 0.5))


def by_id(sample_ids: Sequence[str]) -> list[int]:
    """Return indices in the order of the ids, so that a choice does not depend on the order of the input."""
    return sorted(range(len(sample_ids)), key=lambda index: sample_ids[index])
