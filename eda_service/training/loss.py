"""The draft loss, Eqs. 1 and 10, over the unrolled steps.

    L = w_reg * SmoothL1(h^, h) + w_ce * D(softmax(W h), softmax(W h^))

D is the soft cross-entropy of the paper, or a loss on the acceptance rate a = sum_x min(p(x), q(x)) itself: 1 - a, the
total variation distance, or -log a (LK loss, arXiv 2602.23881), whose gradient does not vanish where the draft is far
off. Both terms are averaged over unmasked tokens only, then over the steps. W is the target's head, or a draft
vocabulary's rows of it: then the target's distribution is the one renormalised over those tokens. Eq. 1's regression is
for drafts whose state estimates h; a draft with a head of its own has W h^ from there.

Shapes: B samples, S rows, L positions, D hidden, M unmasked tokens of a step, W draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.config.loss import DistributionLoss, LossConfig
from eda_service.drafts.draft import Draft
from eda_service.drafts.unroll import unroll
from eda_service.targets.head import LmHead
from eda_service.training.batches import Batch
from eda_service.training.repair import hits_of, rejected_places
from eda_service.training.schedule import SIMULATED_DEPTH

_SMALLEST_ACCEPTANCE = 1e-6


@dataclass
class Losses:
    """Means over unmasked tokens and steps; `total` carries the gradient. `cross_entropy` is the term of the
    distributions, also if it is another loss.
    """

    total: Tensor
    regression: Tensor
    cross_entropy: Tensor


def step_mask(batch: Batch, step: int) -> Tensor:
    """Mark rows (B, S-j) of step j that count: the token at s+j+2 is an answer token and the feature of
    s+j+1 is known.
    """
    known = batch.has_feature_BL[:, step + 1 : -1]
    return known & batch.loss_mask_BL[:, step + 2 :]


@dataclass
class TargetRows:
    """The target's states and distributions at M tokens, which the draft should match.

    Attributes:
        head_in_MD: Inputs of the target's head.
        probs_MW: Distributions of the target.
        rows_M: Row of W of the token that follows, -1 if it is not in the draft vocabulary; None: not needed.
    """

    head_in_MD: Tensor
    probs_MW: Tensor
    rows_M: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, head_in_MD: Tensor, lm_head: LmHead, rows_M: Tensor | None = None) -> TargetRows:
        """Make the rows from the target's states and its head."""
        return cls(head_in_MD, torch.softmax(lm_head.logits(head_in_MD).float(), dim=-1), rows_M)

    def take(self, places_M: Tensor) -> TargetRows:
        """Take some of the rows; if all are taken, nothing is copied."""
        if len(places_M) == len(self.head_in_MD):
            return self
        rows_M = None if self.rows_M is None else self.rows_M[places_M]
        return TargetRows(self.head_in_MD[places_M], self.probs_MW[places_M], rows_M)


class _SoftCrossEntropy(torch.autograd.Function):
    """Computes -p . log_softmax(z) per row, in float32 for every dtype of z; the gradient is softmax(z) - p.

    `F.cross_entropy` with soft targets reads (M, W) a dozen times: a third of a training step at W = 8192.
    """

    @staticmethod
    def forward(ctx: Any, logits_MW: Tensor, probs_MW: Tensor) -> Tensor:
        log_probs_MW = torch.log_softmax(logits_MW, dim=-1, dtype=torch.float32)
        normaliser_M = logits_MW[:, 0].float() - log_probs_MW[:, 0]
        ctx.save_for_backward(logits_MW, probs_MW, normaliser_M)
        return -log_probs_MW.mul_(probs_MW).sum(-1)

    @staticmethod
    def backward(ctx: Any, gradient_M: Tensor) -> tuple[Tensor, None]:
        logits_MW, probs_MW, normaliser_M = ctx.saved_tensors
        draft_MW = logits_MW.to(torch.float32, copy=True).sub_(normaliser_M[:, None]).exp_()
        return draft_MW.sub_(probs_MW).mul_(gradient_M[:, None]).to(logits_MW.dtype), None


def token_losses(
    states_MD: Tensor,
    wanted: TargetRows,
    score: Callable[[Tensor], Tensor],
    distribution: DistributionLoss = DistributionLoss.CROSS_ENTROPY,
    *,
    regress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Compute Eq. 10's two terms per token: SmoothL1 averaged over D, and the term of the distributions over W; each
    (M,).

    Args:
        states_MD: States of the draft.
        wanted: The target's states and distributions at the same tokens.
        score: Function from states to the draft's logits.
        distribution: Loss of the second term.
        regress: Whether the draft's states estimate the inputs of the target's head; if not, the first term is 0.
    """
    if regress:
        regression_M = F.smooth_l1_loss(states_MD, wanted.head_in_MD, reduction="none").mean(-1)
    else:
        regression_M = states_MD.new_zeros(len(states_MD))
    logits_MW = score(states_MD)
    if distribution is DistributionLoss.CROSS_ENTROPY:
        return regression_M, _SoftCrossEntropy.apply(logits_MW, wanted.probs_MW)
    logits_MW = logits_MW.float()
    if distribution is DistributionLoss.TOKENS:
        assert wanted.rows_M is not None
        return regression_M, F.cross_entropy(logits_MW, wanted.rows_M, reduction="none", ignore_index=-1)
    accepted_M = torch.minimum(wanted.probs_MW, torch.softmax(logits_MW, dim=-1)).sum(-1)
    if distribution is DistributionLoss.TVD:
        return regression_M, 1.0 - accepted_M
    return regression_M, -torch.log(accepted_M.clamp(min=_SMALLEST_ACCEPTANCE))


def mixed_precision(device: torch.device, enabled: bool) -> AbstractContextManager[None]:
    """Return a bfloat16 autocast on a device if enabled, otherwise a context that does nothing."""
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, enabled=enabled)
    return context


class DraftLoss(nn.Module):
    """A draft and its loss as one module, so that a wrapper (DeepSpeed, DDP) sees a single forward.

    Args:
        draft: Draft in training form.
        config: Loss weights, steps and feature noise.
        vocab_W: Token ids of the rows the draft scores; None: all of them, in order.
        mixed: Run the matrix products in bfloat16 on float32 weights; softmax and losses stay float32.
    """

    rows_V: Tensor | None

    def __init__(self, draft: Draft, config: LossConfig, vocab_W: Tensor | None = None, *, mixed: bool = False) -> None:
        super().__init__()
        rows_V: Tensor | None = None
        if vocab_W is not None:
            rows_V = torch.full((draft.config.vocab_size,), -1)
            rows_V[vocab_W.long()] = torch.arange(len(vocab_W))
        self.register_buffer("rows_V", rows_V, persistent=False)
        self.draft = draft
        self.config = config
        self.mixed = mixed
        self.num_steps = draft.config.unroll_steps(config)

    def forward(
        self,
        batch: Batch,
        embed: nn.Module,
        lm_head: LmHead,
        divisors_S: Sequence[float] | None = None,
        is_repair: bool = False,
    ) -> Losses:
        """Compute the loss of a batch; a batch without unmasked tokens gives an exact zero.

        Args:
            batch: Batch of samples.
            embed: The target's embedding.
            lm_head: Rows of the target's head for the draft vocabulary.
            divisors_S: Divisor of each step's sums if the batch is a part of a share; None: the batch's own counts.
            is_repair: Whether to take the loss at the places where decoding would end a round (`repair`), as a mean
                over all unmasked tokens.
        """
        # Autocast starts here and not around the call: DeepSpeed switches an outer autocast off.
        with mixed_precision(lm_head.rows_VD.device, self.mixed):
            return self._loss(batch, embed, lm_head, divisors_S, is_repair)

    def _loss(
        self, batch: Batch, embed: nn.Module, lm_head: LmHead, divisors_S: Sequence[float] | None, is_repair: bool
    ) -> Losses:
        features_BLD = batch.features_BLD
        if self.config.feature_noise > 0 and not is_repair:  # decoding has no noise, and repair follows decoding
            assert not batch.is_started  # noise is added to the target's states, not to the draft's own
            features_BLD = features_BLD + (torch.rand_like(features_BLD) - 0.5) * self.config.feature_noise
        regression, cross_entropy = [], []
        counts_BS = step_mask(batch, 0)
        # Row s of step j has the target values of row s + j of step 0, so the target's head runs once, not once per
        # step.
        tokens_M = batch.token_ids_BL[:, 2:][counts_BS]
        rows_M = tokens_M if self.rows_V is None else self.rows_V[tokens_M]
        wanted = TargetRows.of(batch.head_in[:, 1:-1][counts_BS], lm_head, rows_M)
        places_BS = (counts_BS.flatten().cumsum(0) - 1).view_as(counts_BS)
        draft, depth = self.draft, SIMULATED_DEPTH if is_repair else self.num_steps
        steps = unroll(draft, embed, batch.token_ids_BL, features_BLD, depth, is_started=batch.is_started)
        masks: Sequence[Tensor] | None = None
        if is_repair:
            states = list(steps)
            masks = self._rejected(states, wanted, counts_BS, lm_head)
            divisors_S = [float(counts_BS.sum().clamp(min=1)) if divisors_S is None else divisors_S[0]] * depth
            steps = iter(states)
        for step, state_BSD in enumerate(steps):
            mask_BS = counts_BS[:, step:] if masks is None else masks[step]
            places_M = places_BS[:, step:][mask_BS]
            regression_M, cross_entropy_M = token_losses(
                state_BSD[mask_BS],
                wanted.take(places_M),
                lambda states_MD: draft.logits(states_MD, lm_head),
                self.config.distribution,
                regress=draft.predicts_head_in,
            )
            count = max(1, regression_M.shape[0]) if divisors_S is None else divisors_S[step]
            regression.append(regression_M.sum() / count)
            cross_entropy.append(cross_entropy_M.sum() / count)
        # A part may be shorter than the whole share and have fewer steps; the mean is over the share's steps.
        # In repair a place of the answer is learnt at one step at most, and the mean is over places.
        num_steps = 1 if is_repair else len(regression) if divisors_S is None else len(divisors_S)
        mean_regression, mean_cross_entropy = (
            torch.stack(regression).sum() / num_steps,
            torch.stack(cross_entropy).sum() / num_steps,
        )
        total = self.config.regression_weight * mean_regression + self.config.cross_entropy_weight * mean_cross_entropy
        return Losses(total, mean_regression.detach(), mean_cross_entropy.detach())

    def _rejected(
        self, states: Sequence[Tensor], wanted: TargetRows, counts_BS: Tensor, lm_head: LmHead
    ) -> list[Tensor]:
        """Rows of each step where the draft, as it is now, would be rejected."""
        wanted_BS = torch.full_like(counts_BS, -1, dtype=torch.long)
        wanted_BS[counts_BS] = wanted.probs_MW.argmax(-1)
        hits = hits_of(states, wanted_BS, counts_BS, lambda states_MD: self.draft.logits(states_MD, lm_head))
        return rejected_places(hits, counts_BS)
