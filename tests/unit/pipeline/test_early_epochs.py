"""Which shards early training takes, what it leaves of the epochs, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from eda_service.config.job import TrainConfig
from eda_service.pipeline.early_training import early_shards

SHARDS = [f"shard-{n:05d}" for n in range(10)]


@pytest.mark.parametrize(
    ("epochs", "fraction", "num_shards", "wanted"),
    [(0, 0.5, 10, 0), (1, 0.25, 10, 2), (1, 0.01, 10, 1), (1, 0.99, 10, 9), (1, 0.5, 1, 0), (1, 0.9, 2, 1)],
)
def test_the_first_shards_are_taken_and_one_is_left_to_generate(
    epochs: int, fraction: float, num_shards: int, wanted: int
) -> None:
    config = TrainConfig(early_epochs=epochs, early_fraction=fraction)
    assert early_shards(config, SHARDS[:num_shards]) == SHARDS[:wanted]


@pytest.mark.parametrize(
    ("epochs", "early", "fraction", "late"), [(20, 0, 0.25, 20), (20, 4, 0.25, 19), (4, 6, 0.5, 1), (8, 8, 0.34, 5)]
)
def test_as_many_samples_are_seen_in_all(epochs: int, early: int, fraction: float, late: int) -> None:
    assert TrainConfig(epochs=epochs, early_epochs=early, early_fraction=fraction).late_epochs == late


def test_early_training_must_leave_an_epoch_for_the_whole_set() -> None:
    with pytest.raises(ValidationError, match=r"early_epochs is 8 on 0\.5 of the shards.*the 4 epochs"):
        TrainConfig(epochs=4, early_epochs=8, early_fraction=0.5)
