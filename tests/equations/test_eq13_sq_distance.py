"""Eq. 13: squared Mahalanobis distance per answer token, no root.

Oracles: one distance by hand; scipy's `mahalanobis` squared, in the reduced space and, at full dimension (where PCA is
only a rotation), in the original space.

Shapes: N reference tokens, A answer tokens, D hidden, R PCA dimensions.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from eda_service.selection.distance import sq_distances
from eda_service.selection.projection import ReferenceStatistics, fit_reference


def test_by_hand() -> None:
    """mu = (1, 0), Sigma = diag(4, 1): (5, 3) is 16/4 + 9/1 = 13 away, mu itself 0."""
    reference = ReferenceStatistics(
        center_D=np.zeros(2),
        components_RD=np.eye(2),
        mean_R=np.array([1.0, 0.0]),
        precision_RR=np.diag([0.25, 1.0]),
    )
    got_A = sq_distances(np.array([[5.0, 3.0], [1.0, 0.0]]), reference)
    assert got_A.tolist() == pytest.approx([13.0, 0.0])


def test_correlated_by_hand() -> None:
    """Sigma = ((2, 1), (1, 2)), inverse ((2, -1), (-1, 2)) / 3: (1, 1) is 2/3 away and (1, -1) is 2."""
    reference = ReferenceStatistics(
        center_D=np.zeros(2),
        components_RD=np.eye(2),
        mean_R=np.zeros(2),
        precision_RR=np.array([[2.0, -1.0], [-1.0, 2.0]]) / 3,
    )
    got_A = sq_distances(np.array([[1.0, 1.0], [1.0, -1.0]]), reference)
    assert got_A.tolist() == pytest.approx([2 / 3, 2.0])


@pytest.fixture
def cloud() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mixing_DD = rng.normal(size=(7, 7))
    return rng.normal(size=(120, 7)) @ mixing_DD + 3.0, rng.normal(size=(25, 7)) * 4


def test_full_dimension_equals_scipy_in_the_original_space(cloud: tuple[np.ndarray, np.ndarray]) -> None:
    reference_ND, answer_AD = cloud
    got_A = sq_distances(answer_AD, fit_reference(reference_ND, pca_dim=7, ridge=0.0))
    inverse_DD = np.linalg.inv(np.cov(reference_ND, rowvar=False))
    mean_D = reference_ND.mean(axis=0)
    wanted_A = [mahalanobis(answer_D, mean_D, inverse_DD) ** 2 for answer_D in answer_AD]
    np.testing.assert_allclose(got_A, wanted_A, rtol=1e-7)
    assert got_A.dtype == np.float64


def test_reduced_dimension_equals_scipy_in_the_reduced_space(cloud: tuple[np.ndarray, np.ndarray]) -> None:
    reference_ND, answer_AD = cloud
    got_A = sq_distances(answer_AD, fit_reference(reference_ND, pca_dim=3, ridge=0.0))
    centred_ND = reference_ND - reference_ND.mean(axis=0)
    _, _, rotation_DD = np.linalg.svd(centred_ND, full_matrices=False)
    reduced_NR = centred_ND @ rotation_DD[:3].T
    inverse_RR = np.linalg.inv(np.cov(reduced_NR, rowvar=False))
    answers_AR = (answer_AD - reference_ND.mean(axis=0)) @ rotation_DD[:3].T
    wanted_A = [mahalanobis(answer_R, reduced_NR.mean(axis=0), inverse_RR) ** 2 for answer_R in answers_AR]
    np.testing.assert_allclose(got_A, wanted_A, rtol=1e-7)


def test_reference_tokens_average_to_the_number_of_dimensions(cloud: tuple[np.ndarray, np.ndarray]) -> None:
    """sum of squared distances of the fitting set is R (N - 1): a property of the sample covariance."""
    reference_ND, _ = cloud
    got_N = sq_distances(reference_ND, fit_reference(reference_ND, pca_dim=4, ridge=0.0))
    assert got_N.sum() == pytest.approx(4 * (len(reference_ND) - 1))
