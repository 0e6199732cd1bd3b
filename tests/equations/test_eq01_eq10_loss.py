"""Eqs. 1 and 10: SmoothL1 on features plus soft cross-entropy on token distributions, over unmasked tokens only.

Oracles: literal numbers for one token; for whole batches a plain numpy loop over samples and positions that derives
"unmasked" from prompt length and sample length, never from the code's masks. (What the draft predicts is taken from
`unroll`, which has its own oracle in the tests of Eq. 7.)

Shapes: B samples, L positions, D hidden, V vocabulary, M tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from eda_service.config.loss import DistributionLoss, LossConfig
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.eagle1 import Eagle1Draft
from eda_service.drafts.unroll import unroll
from eda_service.storage.samples.shards import Sample
from eda_service.targets.head import LmHead
from eda_service.targets.loader import Target
from eda_service.training.batches import Batch, collate
from eda_service.training.loss import DraftLoss, Losses, TargetRows, token_losses

# (prompt tokens, all tokens) of the samples of the batch below.
_SAMPLES = ((3, 9), (1, 5), (4, 7))


def make_batch(target: Target) -> Batch:
    rng = torch.Generator().manual_seed(7)
    samples = []
    for index, (num_prompt, length) in enumerate(_SAMPLES):
        ids = torch.randint(3, target.config.vocab_size, (length,), generator=rng).tolist()
        features = torch.randn(length - 1, target.config.hidden_size, generator=rng)
        samples.append(Sample(str(index), ids, num_prompt, features))
    return collate(samples, max_tokens=64, dtype=torch.float32)


def compute(target: Target, draft: Draft, batch: Batch, config: LossConfig) -> Losses:
    return DraftLoss(draft, config)(batch, target.embed, target.lm_head)


def smooth_l1(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size * size if size < 1 else size - 0.5


def soft_cross_entropy(wanted_logits_V: np.ndarray, predicted_logits_V: np.ndarray) -> float:
    target_probs_V = np.exp(wanted_logits_V) / np.exp(wanted_logits_V).sum()
    draft_probs_V = np.exp(predicted_logits_V) / np.exp(predicted_logits_V).sum()
    return float(-(target_probs_V * np.log(draft_probs_V)).sum())


def oracle(target: Target, draft: Draft, batch: Batch, steps: int) -> tuple[float, float]:
    """(regression, cross-entropy): mean over the unmasked tokens of each step, then over the steps."""
    head_VD = target.head_weight.double().numpy()
    features_BLD = batch.features_BLD.double().numpy()
    regression, cross_entropy = [], []
    predicted = list(unroll(draft, target.embed, batch.token_ids_BL, batch.features_BLD, steps))
    for step in range(steps):
        predicted_BSD = predicted[step].detach().double().numpy()
        terms = []
        for sample, (num_prompt, length) in enumerate(_SAMPLES):
            for token in range(num_prompt, length):  # the answer's tokens
                row = token - 2 - step
                if row < 0:  # too early in the sequence for a chain of this depth
                    continue
                got_D, want_D = predicted_BSD[sample, row], features_BLD[sample, token - 1]
                distance = sum(smooth_l1(a - b) for a, b in zip(got_D, want_D, strict=True)) / len(got_D)
                terms.append((distance, soft_cross_entropy(head_VD @ want_D, head_VD @ got_D)))
        regression.append(sum(t[0] for t in terms) / len(terms))
        cross_entropy.append(sum(t[1] for t in terms) / len(terms))
    return sum(regression) / steps, sum(cross_entropy) / steps


def test_one_token_by_hand() -> None:
    predicted_MD = torch.tensor([[0.5, 3.0]])
    wanted_MD = torch.tensor([[0.0, 0.0]])
    regression_M, cross_entropy_M = token_losses(
        predicted_MD, TargetRows.of(wanted_MD, LmHead(torch.eye(2))), LmHead(torch.eye(2)).logits
    )
    # |0.5| < 1: 0.5 * 0.25 = 0.125; |3| >= 1: 3 - 0.5 = 2.5; mean over D: 1.3125.
    assert regression_M.item() == pytest.approx(1.3125)
    # The target's logits are (0, 0): probabilities one half each.
    wanted = math.log(math.exp(0.5) + math.exp(3.0)) - 0.5 * (0.5 + 3.0)
    assert cross_entropy_M.item() == pytest.approx(wanted, abs=1e-6)


def test_cross_entropy_is_soft_not_on_the_argmax() -> None:
    wanted_MD = torch.tensor([[math.log(3.0), 0.0]])  # target probabilities 3/4 and 1/4
    predicted_MD = torch.zeros(1, 2)  # draft probabilities one half each
    _, same_M = token_losses(predicted_MD, TargetRows.of(wanted_MD, LmHead(torch.eye(2))), LmHead(torch.eye(2)).logits)
    assert same_M.item() == pytest.approx(math.log(2.0), abs=1e-6)
    _, entropy_M = token_losses(wanted_MD, TargetRows.of(wanted_MD, LmHead(torch.eye(2))), LmHead(torch.eye(2)).logits)
    assert entropy_M.item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-6)


def test_cross_entropy_and_its_gradient_are_torchs_own() -> None:
    torch.manual_seed(0)
    predicted_MD, head_WD = torch.randn(6, 8, dtype=torch.float64, requires_grad=True), torch.randn(11, 8).double()
    wanted = TargetRows.of(torch.randn(6, 8).double(), LmHead(head_WD))
    _, ours_M = token_losses(predicted_MD.float(), wanted, LmHead(head_WD.float()).logits)
    theirs_M = torch.nn.functional.cross_entropy(predicted_MD @ head_WD.T, wanted.probs_MW.double(), reduction="none")
    torch.testing.assert_close(ours_M.double(), theirs_M, atol=1e-5, rtol=1e-5)
    weights_M = torch.arange(6).double()
    (ours,) = torch.autograd.grad((ours_M * weights_M).sum(), predicted_MD)
    (theirs,) = torch.autograd.grad((theirs_M * weights_M).sum(), predicted_MD)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_losses_on_the_acceptance_rate_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): a = 1/2 + 1/4. Its gradient follows q only where q is below p."""
    wanted = TargetRows.of(torch.tensor([[math.log(3.0), 0.0]]), LmHead(torch.eye(2)))
    predicted_MD = torch.zeros(1, 2, requires_grad=True)
    _, tvd_M = token_losses(predicted_MD, wanted, LmHead(torch.eye(2)).logits, DistributionLoss.TVD)
    _, lk_M = token_losses(predicted_MD, wanted, LmHead(torch.eye(2)).logits, DistributionLoss.LK)
    assert tvd_M.item() == pytest.approx(0.25)
    assert lk_M.item() == pytest.approx(-math.log(0.75))
    (gradient,) = torch.autograd.grad(lk_M.sum(), predicted_MD)
    # a = q_0 + 1/4 and dq_0/dz = q_0 (1 - q_0) (1, -1); d(-log a) = -(1 / 0.75) * 0.25 * (1, -1)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0]]) / 3)


def test_a_black_box_target_shows_its_tokens_only(tiny_target: Target, tiny_draft: Draft) -> None:
    """The term is the mean negative log-likelihood of the answers' tokens; those out of the vocabulary count zero."""
    batch, kept = make_batch(tiny_target), torch.arange(0, 112, 2)
    config = LossConfig(regression_weight=0.0, cross_entropy_weight=1.0, distribution=DistributionLoss.TOKENS)
    head_WD = tiny_target.head_weight[kept]
    losses = DraftLoss(tiny_draft, config, kept)(batch, tiny_target.embed, LmHead(head_WD))
    predicted_BSD = next(unroll(tiny_draft, tiny_target.embed, batch.token_ids_BL, batch.features_BLD, 1))
    terms = []
    for sample, (num_prompt, length) in enumerate(_SAMPLES):
        for token in range(max(2, num_prompt), length):
            log_probs_W = torch.log_softmax(head_WD @ predicted_BSD[sample, token - 2], dim=0)
            token_id = int(batch.token_ids_BL[sample, token])
            terms.append(0.0 if token_id % 2 else -log_probs_W[token_id // 2].item())
    assert 0.0 in terms
    assert losses.total.item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_lk_loss_stays_finite_where_nothing_is_accepted() -> None:
    wanted = TargetRows.of(torch.tensor([[200.0, 0.0]]), LmHead(torch.eye(2)))
    predicted_MD = torch.tensor([[0.0, 200.0]], requires_grad=True)
    _, lk_M = token_losses(predicted_MD, wanted, LmHead(torch.eye(2)).logits, DistributionLoss.LK)
    (gradient,) = torch.autograd.grad(lk_M.sum(), predicted_MD)
    assert math.isfinite(lk_M.item())
    assert gradient.isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_batch_against_numpy(tiny_target: Target, tiny_draft: Draft, steps: int) -> None:
    batch = make_batch(tiny_target)
    losses = compute(tiny_target, tiny_draft, batch, LossConfig(unroll_steps=steps))
    regression, cross_entropy = oracle(tiny_target, tiny_draft, batch, steps)
    assert losses.regression.item() == pytest.approx(regression, rel=1e-4)
    assert losses.cross_entropy.item() == pytest.approx(cross_entropy, rel=1e-4)


def test_default_weights_are_one_and_a_tenth(tiny_target: Target, tiny_draft: Draft) -> None:
    batch = make_batch(tiny_target)
    losses = compute(tiny_target, tiny_draft, batch, LossConfig())
    wanted = 1.0 * losses.regression.item() + 0.1 * losses.cross_entropy.item()
    assert losses.total.item() == pytest.approx(wanted, rel=1e-6)


def test_weights_scale_their_own_term(tiny_target: Target, tiny_draft: Draft) -> None:
    batch = make_batch(tiny_target)
    losses = compute(tiny_target, tiny_draft, batch, LossConfig(regression_weight=0.25, cross_entropy_weight=3.0))
    wanted = 0.25 * losses.regression.item() + 3.0 * losses.cross_entropy.item()
    assert losses.total.item() == pytest.approx(wanted, rel=1e-6)


def test_padding_cannot_be_felt(tiny_target: Target, tiny_draft: Draft) -> None:
    batch = make_batch(tiny_target)
    before = compute(tiny_target, tiny_draft, batch, LossConfig(unroll_steps=3)).total.item()
    for sample, (_, length) in enumerate(_SAMPLES):
        batch.features_BLD[sample, length - 1 :] = 50.0  # the last token's feature is unknown, the rest is padding
        batch.token_ids_BL[sample, length:] = 17
    assert compute(tiny_target, tiny_draft, batch, LossConfig(unroll_steps=3)).total.item() == pytest.approx(before)


def test_prompt_features_are_no_targets_but_answer_features_are(tiny_target: Target, tiny_draft: Draft) -> None:
    """The mean is over answer tokens only: moving the wanted features of prompt tokens leaves both terms alone."""
    batch = make_batch(tiny_target)
    inputs_BLD = batch.features_BLD.clone()

    def loss_against(wanted_BLD: torch.Tensor) -> float:
        # Same inputs, other wanted features: the noise-free way is to compare through the oracle's positions.
        predicted_BSD = next(unroll(tiny_draft, tiny_target.embed, batch.token_ids_BL, inputs_BLD, 1)).detach()
        moved = Batch(batch.token_ids_BL, wanted_BLD, batch.loss_mask_BL, batch.has_feature_BL)
        fixed = DraftLoss(_Fixed(tiny_draft.config, predicted_BSD), LossConfig())
        return float(fixed(moved, tiny_target.embed, tiny_target.lm_head).regression)

    before = loss_against(inputs_BLD)
    prompt_moved_BLD, answer_moved_BLD = inputs_BLD.clone(), inputs_BLD.clone()
    num_prompt = _SAMPLES[0][0]
    prompt_moved_BLD[0, : num_prompt - 1] += 5.0  # features of tokens whose successor is still the prompt's
    answer_moved_BLD[0, num_prompt - 1] += 5.0  # gives the first answer token
    assert loss_against(prompt_moved_BLD) == pytest.approx(before)
    assert loss_against(answer_moved_BLD) > before + 0.1


class _Fixed(Eagle1Draft):
    """A draft whose first step gives a fixed prediction, whatever it is shown."""

    def __init__(self, config: DraftConfig, predicted_BSD: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.predicted_BSD = predicted_BSD

    def step(self, *_: object) -> torch.Tensor:
        return self.predicted_BSD


def test_all_masked_batch_is_an_exact_zero_with_no_gradient(tiny_target: Target, tiny_draft: Draft) -> None:
    batch = make_batch(tiny_target)
    batch.loss_mask_BL[:] = False
    losses = compute(tiny_target, tiny_draft, batch, LossConfig(unroll_steps=2))
    losses.total.backward()
    assert losses.total.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in tiny_draft.parameters())


def test_draft_vocabulary_renormalises_the_target_over_its_rows(tiny_target: Target) -> None:
    rng = np.random.default_rng(0)
    predicted_MD, wanted_MD = rng.normal(size=(4, 32)), rng.normal(size=(4, 32))
    rows = [3, 5, 40, 77]
    head_WD = tiny_target.head_weight[rows]
    wanted_by_target = TargetRows.of(torch.tensor(wanted_MD).float(), LmHead(head_WD))
    _, cross_entropy_M = token_losses(torch.tensor(predicted_MD).float(), wanted_by_target, LmHead(head_WD).logits)
    head = head_WD.double().numpy()
    wanted = [soft_cross_entropy(head @ w, head @ p) for w, p in zip(wanted_MD, predicted_MD, strict=True)]
    np.testing.assert_allclose(cross_entropy_M.numpy(), wanted, rtol=1e-4)


def test_feature_noise_moves_inputs_only_and_stays_in_bounds(
    tiny_target: Target, new_draft: Callable[..., Draft]
) -> None:
    batch = make_batch(tiny_target)
    seen: list[torch.Tensor] = []

    class Listening(Eagle1Draft):
        def fuse(self, embeds_BLD: torch.Tensor, features_BLD: torch.Tensor) -> torch.Tensor:
            seen.append(features_BLD.detach().clone())
            return super().fuse(embeds_BLD, features_BLD)

    draft = Listening(new_draft(tiny_target).config)
    kept_BLD = batch.features_BLD.clone()
    torch.manual_seed(0)
    compute(tiny_target, draft, batch, LossConfig(feature_noise=0.2))
    difference = seen[0] - kept_BLD[:, : seen[0].shape[1]]
    assert 0.09 < difference.abs().max().item() <= 0.1 + 1e-6
    assert torch.equal(batch.features_BLD, kept_BLD)


def test_mixed_precision_is_the_same_loss_up_to_bfloat16(tiny_target: Target, new_draft: Callable[..., Draft]) -> None:
    """Products in bfloat16 (8 bits), weights, gradients and losses in float32."""
    batch, config = make_batch(tiny_target), LossConfig(unroll_steps=2)
    plain = compute(tiny_target, new_draft(tiny_target), batch, config)
    draft = new_draft(tiny_target)
    mixed = DraftLoss(draft, config, mixed=True)(batch, tiny_target.embed, tiny_target.lm_head)
    mixed.total.backward()
    assert mixed.total.dtype == torch.float32
    assert mixed.regression.item() == pytest.approx(plain.regression.item(), rel=0.02)
    assert mixed.cross_entropy.item() == pytest.approx(plain.cross_entropy.item(), rel=0.02)
    assert mixed.total.item() != plain.total.item()  # the products did run in another precision
    for parameter in draft.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
