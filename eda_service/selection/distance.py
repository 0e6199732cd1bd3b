"""Distance of answer tokens and value of a sample, Eqs. 13 and 14.

    sq_distance_t = (h'_t - mu)^T Sigma^-1 (h'_t - mu)      (13)
    sample_value  = Quantile_{t in answer}(sq_distance_t, rho)   (14)

Shapes: A answer tokens, D hidden, R PCA dimensions.
"""

from __future__ import annotations

import numpy as np

from eda_service.errors import DatasetInvalidError
from eda_service.selection.projection import ReferenceStatistics, project
from eda_service.selection.selector import Array


def sq_distances(features_AD: Array, reference: ReferenceStatistics) -> Array:
    """Compute the squared Mahalanobis distance of every answer token, (A,) float64, without a root."""
    offset_AR = project(features_AD, reference) - reference.mean_R
    distances_A: Array = np.einsum("ar,rs,as->a", offset_AR, reference.precision_RR, offset_AR, optimize=True)
    return distances_A


def sample_value(distances_A: Array, quantile: float) -> float:
    """Compute Eq. 14: the rho-quantile (linear interpolation) over one sample's answer tokens.

    Raises:
        DatasetInvalidError: The answer mask is all zero, so there is nothing to take a quantile of.
    """
    if distances_A.size == 0:
        raise DatasetInvalidError("the sample has no answer token (its answer mask is all zero)", param="answer_mask")
    return float(np.quantile(distances_A, quantile))
