"""Eq. 14: a sample's value is the rho-quantile of its answer tokens' distances.

Oracle: worked by hand, with linear interpolation between order statistics.
"""

from __future__ import annotations

import numpy as np
import pytest

from eda_service.errors import DatasetInvalidError
from eda_service.selection.distance import sample_value


@pytest.mark.parametrize(
    ("quantile", "wanted"),
    [
        (0.9, 7.6),  # place 0.9 * 4 = 3.6 between the sorted 4 and 10: 4 + 0.6 * 6
        (0.5, 3.0),
        (0.25, 2.0),
        (0.1, 1.4),
        (0.0, 1.0),
        (1.0, 10.0),
    ],
)
def test_by_hand(quantile: float, wanted: float) -> None:
    assert sample_value(np.array([3.0, 10.0, 1.0, 4.0, 2.0]), quantile) == pytest.approx(wanted)


def test_one_token_is_its_own_quantile() -> None:
    assert sample_value(np.array([2.5]), 0.9) == 2.5


def test_one_outlier_moves_the_maximum_but_not_the_quantile() -> None:
    """What rho is for: 1 token in 100 is not enough to make a sample valuable."""
    distances_A = np.full(100, 2.0)
    distances_A[17] = 1e6
    assert sample_value(distances_A, 0.9) == 2.0
    assert sample_value(distances_A, 1.0) == 1e6


def test_all_zero_answer_mask_is_a_clear_error() -> None:
    with pytest.raises(DatasetInvalidError, match=r"no answer token.*answer mask is all zero") as caught:
        sample_value(np.empty(0), 0.9)
    assert (caught.value.param, caught.value.code) == ("answer_mask", "dataset_invalid")
