"""The loss that a draft is trained with."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from eda_service.config.base import Config


class DistributionLoss(StrEnum):
    """Distances of the draft's from the target's distribution: Eq. 10's soft cross-entropy (KL up to a constant), total
    variation distance, or the negative logarithm of the acceptance rate (arXiv 2602.23881); or cross-entropy with the
    tokens of the answer alone, all that a black-box target shows (arXiv 2503.07807).
    """

    CROSS_ENTROPY = "cross_entropy"
    TVD = "tvd"
    LK = "lk"
    TOKENS = "tokens"


class LossConfig(Config):
    """Draft loss (Eqs. 1, 10): regression on features plus soft cross-entropy on token distributions."""

    regression_weight: float = Field(1.0, ge=0.0, le=100.0, description="SmoothL1 on features (released code: 1.0)")
    cross_entropy_weight: float = Field(
        0.1, ge=0.0, le=100.0, description="soft cross-entropy (released code: 0.1), or what `distribution` says"
    )
    distribution: DistributionLoss = Field(
        DistributionLoss.CROSS_ENTROPY, description="loss on the distributions; cross_entropy is the paper's"
    )
    unroll_steps: int | None = Field(
        None,
        ge=1,
        le=8,
        description="drafted positions unrolled per start; default: what the kind of draft needs, 1 for EAGLE-1 (the "
        "paper), 3 for EAGLE-3 (training-time test), which learns to read its own states only so",
    )
    feature_noise: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="uniform noise on input features (released code: 0.2 * 512 / L); those of an EAGLE-3 draft are the "
        "layers that it reads, which are then kept instead of its first state",
    )
