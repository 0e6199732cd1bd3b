"""What a selector is to everybody who does not write one: how samples are measured, which ones stay, and how many.

A selector fits what it measures against on general prompts (`fit`), measures each answer in the pass that generates it
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
        """Write what was fitted, for `SampleSelector.load`."""

    def sample_value(self, states_AD: Array) -> float:
        """The value of one sample, from what the target's head reads at its answer's tokens."""


class SampleSelector(ABC):
    """One way of choosing samples.

    Args:
        config: The job's settings of selection.

    Attributes:
        needs_scores: Samples are measured for it in any job; without, only where an adaptation reports their values.
    """

    needs_scores: ClassVar[bool] = True

    def __init__(self, config: SelectionConfig) -> None:
        self.config = config

    @abstractmethod
    def fit(self, states_ND: Array) -> Scorer:
        """Fit on what the target's head reads at the tokens of its answers to general prompts.

        Raises:
            DatasetInvalidError: They are too few, or of no use.
        """

    @abstractmethod
    def load(self, path: Path) -> Scorer:
        """What `Scorer.save` wrote, with this config's other settings."""

    def keep(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        """Indices of the kept samples, in the order of the input.

        Args:
            sample_ids: Unique ids.
            values: `sample_value` of each; 0 where nothing was measured.
            seed: The job's.

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
        """Indices of the kept samples in any order; there is at least one sample."""

    def threshold(self, _kept: Sequence[float]) -> float | None:
        """The value at which the kept samples end, for the report; None where values do not decide."""
        return None

    @property
    def share(self) -> float:
        """Share of the samples that is expected to stay."""
        return self.config.keep_fraction


def num_kept(num_samples: int, keep_fraction: float) -> int:
    """K of Eq. 15: the fraction rounded half up, at least 1."""
    return max(1, int(num_samples * keep_fraction + 0.5))


def by_id(sample_ids: Sequence[str]) -> list[int]:
    """Indices in the order of the ids, so that a choice does not depend on the order of the input."""
    return sorted(range(len(sample_ids)), key=lambda index: sample_ids[index])
