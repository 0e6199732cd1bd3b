"""Eqs. 11 and 12: PCA of general features, then mean and covariance of the reduced ones, in float64.

Oracles: numpy's symmetric eigendecomposition of the covariance matrix; scikit-learn's PCA by another solver (full SVD).

Shapes: N reference tokens, D hidden, R PCA dimensions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from eda_service.errors import DatasetInvalidError
from eda_service.selection.distance import sq_distances
from eda_service.selection.projection import ReferenceStatistics, fit_reference, project
from eda_service.selection.selector import Array


def features(num_tokens: int = 200, hidden_size: int = 12, *, seed: int = 0) -> Array:
    """Correlated, off-centre features with a falling spectrum."""
    rng = np.random.default_rng(seed)
    mixing_DD = rng.normal(size=(hidden_size, hidden_size)) * np.linspace(3.0, 0.2, hidden_size)
    return np.asarray(rng.normal(size=(num_tokens, hidden_size)) @ mixing_DD.T + rng.normal(size=hidden_size) * 5)


def test_against_numpy_eigendecomposition() -> None:
    features_ND = features()
    reference = fit_reference(features_ND, pca_dim=5, ridge=0.0)
    values_D, vectors_DD = np.linalg.eigh(np.cov(features_ND.T))
    values_R, vectors_RD = values_D[::-1][:5], vectors_DD[:, ::-1].T[:5]
    signs_R = np.sign(np.sum(reference.components_RD * vectors_RD, axis=1))
    np.testing.assert_allclose(reference.components_RD, signs_R[:, None] * vectors_RD, atol=1e-8)
    np.testing.assert_allclose(reference.center_D, features_ND.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(reference.mean_R, np.zeros(5), atol=1e-10)  # centred by construction
    # In the eigenbasis Sigma is the diagonal of the eigenvalues.
    np.testing.assert_allclose(reference.precision_RR, np.diag(1 / values_R), rtol=1e-7, atol=1e-9)


def test_against_scikit_learn() -> None:
    features_ND, other_ND = features(), features(50, seed=1)
    reference = fit_reference(features_ND, pca_dim=4, ridge=0.0)
    pca = PCA(n_components=4, svd_solver="full").fit(features_ND)
    wanted_NR, got_NR = pca.transform(other_ND), project(other_ND, reference)
    np.testing.assert_allclose(np.abs(got_NR), np.abs(wanted_NR), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(1 / np.diag(reference.precision_RR), pca.explained_variance_, rtol=1e-8)


def test_two_dimensions_by_hand() -> None:
    """Points (+-2, 0) and (0, +-1) around (10, 20): variances 8/3 and 2/3 along the axes, no covariance."""
    features_ND = np.array([[12.0, 20.0], [8.0, 20.0], [10.0, 21.0], [10.0, 19.0]])
    reference = fit_reference(features_ND, pca_dim=2, ridge=0.0)
    assert reference.center_D.tolist() == [10.0, 20.0]
    np.testing.assert_allclose(np.abs(reference.components_RD), np.eye(2), atol=1e-12)
    np.testing.assert_allclose(reference.precision_RR, np.diag([3 / 8, 3 / 2]), atol=1e-12)


def test_ridge_is_relative_to_the_mean_variance() -> None:
    """Variances 8/3 and 2/3 have mean 5/3; ridge 0.6 adds 1 to both."""
    features_ND = np.array([[12.0, 20.0], [8.0, 20.0], [10.0, 21.0], [10.0, 19.0]])
    reference = fit_reference(features_ND, pca_dim=2, ridge=0.6)
    np.testing.assert_allclose(reference.precision_RR, np.diag([3 / 11, 3 / 5]), atol=1e-12)


def test_float16_features_are_reduced_in_float64() -> None:
    """Stored features are half precision; the statistics must not be."""
    features_ND = features().astype(np.float16)
    reference = fit_reference(features_ND, pca_dim=6, ridge=1e-6)  # type: ignore[arg-type]
    exact = fit_reference(features_ND.astype(np.float64), pca_dim=6, ridge=1e-6)
    assert all(value.dtype == np.float64 for value in vars(reference).values())
    np.testing.assert_array_equal(reference.precision_RR, exact.precision_RR)
    assert project(features_ND, reference).dtype == np.float64  # type: ignore[arg-type]


def test_dimensions_are_capped_by_tokens_and_hidden_size() -> None:
    assert fit_reference(features(6, 12), pca_dim=64, ridge=1e-6).components_RD.shape == (5, 12)
    assert fit_reference(features(40, 12), pca_dim=64, ridge=1e-6).components_RD.shape == (12, 12)


def test_one_dimension_is_a_matrix_too() -> None:
    features_ND = features()
    reference = fit_reference(features_ND, pca_dim=1, ridge=0.0)
    largest = np.linalg.eigvalsh(np.cov(features_ND.T))[-1]
    np.testing.assert_allclose(reference.precision_RR, [[1 / largest]], rtol=1e-8)


def test_saved_statistics_are_bit_identical(tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    reference = fit_reference(features(), pca_dim=5, ridge=1e-6)
    reference.save(path)
    loaded = ReferenceStatistics.load(path)
    for name, value in vars(reference).items():
        np.testing.assert_array_equal(getattr(loaded, name), value)
    np.testing.assert_array_equal(
        sq_distances(features(9, seed=3), loaded), sq_distances(features(9, seed=3), reference)
    )


def test_too_few_tokens_name_the_setting() -> None:
    with pytest.raises(DatasetInvalidError, match="2 reference tokens are too few") as caught:
        fit_reference(features(2), pca_dim=4, ridge=1e-6)
    assert caught.value.param == "selection.num_reference_prompts"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_features_are_refused(bad: float) -> None:
    features_ND = features()
    features_ND[3, 4] = bad
    with pytest.raises(DatasetInvalidError, match="non-finite"):
        fit_reference(features_ND, pca_dim=4, ridge=1e-6)


def test_features_without_any_variance_are_a_clear_error() -> None:
    """A target that answers every general prompt with one token: no covariance to invert."""
    with pytest.raises(DatasetInvalidError):
        fit_reference(np.ones((20, 6)), pca_dim=4, ridge=1e-6)
