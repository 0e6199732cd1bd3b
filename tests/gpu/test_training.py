"""Losses and gradients on a GPU are those on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tiny_models import VOCAB_SIZE, random_draft, random_samples

from eda_service.config.job import Method, TrainConfig
from eda_service.config.loss import DistributionLoss, LossConfig
from eda_service.drafts.freezing import frozen_sha256, prepare
from eda_service.targets.loader import Target
from eda_service.training.batches import collate
from eda_service.training.loss import DraftLoss

_LENGTHS = (5, 19, 8, 12)


@pytest.mark.parametrize("method", [Method.EDA, Method.LORA, Method.FULL_FT])
@pytest.mark.parametrize("distribution", list(DistributionLoss))
def test_loss_and_gradients_are_those_of_a_cpu(
    distribution: DistributionLoss,
    method: Method,
    device: torch.device,
    tiny_target: Target,
    target_on: Callable[[str], Target],
) -> None:
    config = LossConfig(cross_entropy_weight=1.0, unroll_steps=3, distribution=distribution)
    vocab_W = torch.arange(0, VOCAB_SIZE, 2)
    here = DraftLoss(
        prepare(random_draft(tiny_target), TrainConfig(method=method, lora_rank=4), seed=0), config, vocab_W
    )
    there = copy.deepcopy(here).to(device)
    batch = collate(random_samples(_LENGTHS), max_tokens=64, dtype=torch.float32)
    moved = batch.to(device)
    target = target_on("llama")
    wanted = here(batch, tiny_target.embed, tiny_target.lm_head.take(vocab_W))
    found = there(moved, target.embed, target.lm_head.take(vocab_W))
    wanted.total.backward()
    found.total.backward()
    assert found.total.item() == pytest.approx(wanted.total.item(), rel=1e-4)
    pairs = [(a.grad, b.grad) for a, b in zip(here.parameters(), there.parameters(), strict=True)]
    assert [a is None for a, _ in pairs] == [b is None for _, b in pairs]
    trained = [(a, b.cpu()) for a, b in pairs if a is not None and b is not None]
    assert trained
    for mine, theirs in trained:
        torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-5)


def test_the_digest_of_frozen_weights_does_not_depend_on_the_device(device: torch.device, tiny_target: Target) -> None:
    draft = prepare(random_draft(tiny_target), TrainConfig(), seed=0)
    assert frozen_sha256(copy.deepcopy(draft).to(device)) == frozen_sha256(draft)
