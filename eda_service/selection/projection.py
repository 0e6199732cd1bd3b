"""Reference statistics, Eqs. 11 and 12: PCA of general hidden states, then mean and covariance of the reduced ones.

    h'_t  = PCA(h_t)                                        (11)
    mu    = E[h'],  Sigma = Cov(h')   over D_general        (12)

PCA and statistics are fitted on the tuned target's own features over general prompts, in float64.

Shapes: N reference tokens, D hidden, R PCA dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from eda_service.errors import DatasetInvalidError
from eda_service.selection.selector import Array


@dataclass(frozen=True)
class ReferenceStatistics:
    """The statistics that distances are measured with.

    Attributes:
        center_D: Mean of the reference features, subtracted before projecting.
        components_RD: Orthonormal PCA rows.
        mean_R: mu of Eq. 12, of the reduced features.
        precision_RR: Inverse of Sigma (with ridge added).
    """

    center_D: Array
    components_RD: Array
    mean_R: Array
    precision_RR: Array

    def save(self, path: Path) -> None:
        """Write as safetensors, float64."""
        save_file({name: np.ascontiguousarray(value) for name, value in vars(self).items()}, path)

    @classmethod
    def load(cls, path: Path) -> ReferenceStatistics:
        """Read what `save` wrote."""
        return cls(**load_file(path))


def fit_reference(features_ND: Array, *, pca_dim: int, ridge: float) -> ReferenceStatistics:
    """Fit Eqs. 11 and 12.

    Args:
        features_ND: Features of general answer tokens; converted to float64.
        pca_dim: Number of dimensions R, capped by N - 1 and D.
        ridge: Number added to the covariance diagonal, relative to its mean.

    Raises:
        DatasetInvalidError: Fewer than three reference tokens are given, or a feature is not finite.
    """
    from sklearn.decomposition import PCA  # takes a second, and plans ask selectors for less

    features_ND = np.asarray(features_ND, dtype=np.float64)
    num_tokens, hidden_size = features_ND.shape
    if num_tokens < 3:
        raise DatasetInvalidError(
            f"{num_tokens} reference tokens are too few for a covariance (at least 3); raise "
            "selection.num_reference_prompts",
            param="selection.num_reference_prompts",
        )
    if not np.isfinite(features_ND).all():
        raise DatasetInvalidError("the target gave non-finite features on general prompts; check its weights")
    if not (np.ptp(features_ND, axis=0) > 0).any():
        raise DatasetInvalidError(
            "the target's features on general prompts are all the same; check its weights, or raise "
            "selection.num_reference_prompts",
            param="selection.num_reference_prompts",
        )
    size = min(pca_dim, num_tokens - 1, hidden_size)
    pca = PCA(n_components=size, svd_solver="covariance_eigh").fit(features_ND)
    reduced_NR = (features_ND - pca.mean_) @ pca.components_.T
    covariance_RR = np.atleast_2d(np.cov(reduced_NR, rowvar=False))
    covariance_RR += ridge * np.trace(covariance_RR) / size * np.eye(size)
    return ReferenceStatistics(
        center_D=pca.mean_,
        components_RD=pca.components_,
        mean_R=reduced_NR.mean(axis=0),
        precision_RR=np.linalg.inv(covariance_RR),
    )


def project(features_AD: Array, reference: ReferenceStatistics) -> Array:
    """Compute Eq. 11: reduced features (A, R) in float64."""
    reduced_AR: Array = (np.asarray(features_AD, dtype=np.float64) - reference.center_D) @ reference.components_RD.T
    return reduced_AR
