"""The draft loss, Eqs. 1 and 10, over the unrolled steps.

    L = w_reg * SmoothL1(h^, h) + w_ce * CE(softmax(W h), softmax(W h^))

Both terms are averaged over unmasked tokens only, then over the steps. W is the target's head, or a draft vocabulary's
rows of it: then the target's distribution is the one renormalised over those tokens.

Shapes: B samples, L positions, D hidden, M unmasked tokens of a step, W draft vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.config import LossConfig
from eda_service.model.draft import Draft
from eda_service.training.batches import Batch
from eda_service.training.unroll import unroll


@dataclass
class Losses:
    """Means over unmasked tokens and steps; `total` carries the gradient."""

    total: Tensor
    regression: Tensor
    cross_entropy: Tensor


def step_mask(batch: Batch, step: int) -> Tensor:
    """(B, S-j) rows of step j that count: the token at s+j+2 is an answer token and the feature of s+j+1 is known."""
    known = batch.has_feature_BL[:, step + 1 : -1]
    return known & batch.loss_mask_BL[:, step + 2 :]


def token_losses(predicted_MD: Tensor, wanted_MD: Tensor, head_WD: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 10's two terms per token: SmoothL1 averaged over D, and soft cross-entropy over W; each (M,)."""
    regression_M = F.smooth_l1_loss(predicted_MD, wanted_MD, reduction="none").mean(-1)
    with torch.no_grad():
        target_probs_MW = torch.softmax(F.linear(wanted_MD, head_WD).float(), dim=-1)
    draft_log_probs_MW = torch.log_softmax(F.linear(predicted_MD, head_WD).float(), dim=-1)
    cross_entropy_M = -(target_probs_MW * draft_log_probs_MW).sum(-1)
    return regression_M, cross_entropy_M


def mixed_precision(device: torch.device, enabled: bool) -> AbstractContextManager[None]:
    """bfloat16 autocast on a device, or nothing."""
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, enabled=enabled)
    return context


class DraftLoss(nn.Module):
    """A draft and its loss as one module, so that a wrapper (DeepSpeed, DDP) sees a single forward.

    Args:
        draft: Draft in training form.
        config: Weights, steps, noise.
        mixed: Run the matrix products in bfloat16 on float32 weights; softmax and losses stay float32.
    """

    def __init__(self, draft: Draft, config: LossConfig, *, mixed: bool = False) -> None:
        super().__init__()
        self.draft = draft
        self.config = config
        self.mixed = mixed

    def forward(self, batch: Batch, embed: nn.Module, head_WD: Tensor) -> Losses:
        """Loss of a batch; a batch without unmasked tokens gives an exact zero."""
        # Here and not around the call: DeepSpeed switches an outer autocast off.
        with mixed_precision(head_WD.device, self.mixed):
            return self._loss(batch, embed, head_WD)

    def _loss(self, batch: Batch, embed: nn.Module, head_WD: Tensor) -> Losses:
        features_BLD = batch.features_BLD
        if self.config.feature_noise > 0:
            features_BLD = features_BLD + (torch.rand_like(features_BLD) - 0.5) * self.config.feature_noise
        regression, cross_entropy = [], []
        steps = unroll(self.draft, embed, batch.token_ids_BL, features_BLD, self.config.unroll_steps)
        for step, predicted_BSD in enumerate(steps):
            mask_BS = step_mask(batch, step)
            wanted_MD = batch.features_BLD[:, step + 1 : -1][mask_BS]
            regression_M, cross_entropy_M = token_losses(predicted_BSD[mask_BS], wanted_MD, head_WD)
            count = max(1, regression_M.shape[0])
            regression.append(regression_M.sum() / count)
            cross_entropy.append(cross_entropy_M.sum() / count)
        mean_regression, mean_cross_entropy = torch.stack(regression).mean(), torch.stack(cross_entropy).mean()
        total = self.config.regression_weight * mean_regression + self.config.cross_entropy_weight * mean_cross_entropy
        return Losses(total, mean_regression.detach(), mean_cross_entropy.detach())
