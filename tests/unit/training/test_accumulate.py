"""Accumulated gradients are those of the whole batch, whatever lengths its parts have."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_draft, random_samples

from eda_service.config.job import TrainConfig
from eda_service.config.loss import LossConfig
from eda_service.targets.head import LmHead
from eda_service.targets.loader import Target
from eda_service.training.accumulate import num_parts, split, step_counts
from eda_service.training.batches import collate
from eda_service.training.loss import DraftLoss

LENGTHS = (5, 19, 8, 12, 30)


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("unroll_steps", [1, 3])
def test_parts_add_up_to_the_whole(tiny_target: Target, parts: int, unroll_steps: int) -> None:
    loss = DraftLoss(random_draft(tiny_target), LossConfig(cross_entropy_weight=1.0, unroll_steps=unroll_steps))
    head_WD, made = tiny_target.head_weight.clone(), random_samples(LENGTHS)
    whole = collate(made, max_tokens=64, dtype=torch.float32)
    expected = loss(whole, tiny_target.embed, LmHead(head_WD))
    expected.total.backward()
    wanted = [p.grad.clone() for p in loss.parameters() if p.grad is not None]
    loss.zero_grad()
    batches = [collate([made[i] for i in part], max_tokens=64, dtype=torch.float32) for part in split(range(5), parts)]
    divisors_S = sum(step_counts(batch, unroll_steps) for batch in batches).tolist()  # type: ignore[union-attr]
    total = sum(loss(batch, tiny_target.embed, LmHead(head_WD), divisors_S).total for batch in batches)
    total.backward()
    got = [p.grad for p in loss.parameters() if p.grad is not None]
    assert total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    assert len(got) == len(wanted) > 0
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_means_of_parts_would_not(tiny_target: Target) -> None:
    """The test above would notice: parts of other lengths weigh the same in a mean of means."""
    loss = DraftLoss(random_draft(tiny_target), LossConfig())
    made, head_WD = random_samples(LENGTHS), tiny_target.head_weight.clone()
    whole = loss(collate(made, max_tokens=64, dtype=torch.float32), tiny_target.embed, LmHead(head_WD)).total.item()
    batches = [collate([made[i] for i in part], max_tokens=64, dtype=torch.float32) for part in split(range(5), 2)]
    parts = [loss(batch, tiny_target.embed, LmHead(head_WD)).total.item() for batch in batches]
    assert abs(sum(parts) / 2 - whole) > 1e-3 * whole


def test_a_share_is_cut_into_as_many_parts_on_every_worker() -> None:
    config = TrainConfig(batch_size=16, micro_batch_size=3)
    assert num_parts(config, 2) == 3  # eight sequences a worker: three, three and two
    assert [len(part) for part in split(range(8), 3)] == [3, 3, 2]
    assert split([7], 3) == [[7], [], []]
    assert num_parts(TrainConfig(batch_size=16), 2) == 1
    assert num_parts(TrainConfig(batch_size=4, micro_batch_size=64), 2) == 1
