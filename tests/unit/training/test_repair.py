"""Repair learns where decoding ends a round: the places against the rounds of the decoding form (`Replay`), the loss
against a sum over these places written out, the epochs within the whole loop.

Shapes: B samples, S rows, j step, D hidden.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tiny_models import random_draft, random_eagle3
from torch import Tensor

from eda_service.config.job import AdaptConfig, SelfGenConfig, TargetSpec, TrainConfig
from eda_service.config.loss import DistributionLoss, LossConfig
from eda_service.drafts.draft import Draft
from eda_service.drafts.unroll import unroll
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.replay import Replay, Transcript
from eda_service.planning.constants import CORE
from eda_service.planning.plan import make_plan
from eda_service.planning.workload import Lengths, workload
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt
from eda_service.storage.samples.shards import Sample
from eda_service.targets.files.shape import ModelShape
from eda_service.targets.head import LmHead
from eda_service.targets.loader import Target
from eda_service.training import loss as training_loss
from eda_service.training.accumulate import split, step_counts
from eda_service.training.batches import Batch, collate
from eda_service.training.loss import DraftLoss
from eda_service.training.repair import rejected_places
from eda_service.training.schedule import SIMULATED_DEPTH


@pytest.fixture(scope="module", params=["eagle1", "eagle3"])
def fresh(request: pytest.FixtureRequest, tiny_target: Target) -> Draft:
    return random_draft(tiny_target) if request.param == "eagle1" else random_eagle3(tiny_target, draft_vocab_size=112)


@pytest.fixture(scope="module")
def samples(fresh: Draft, tiny_target: Target) -> list[Sample]:
    """Greedy, of different lengths, so that a text is what decoding would give."""
    prompts = [Prompt(id=str(i), messages=[{"role": "user", "content": text}]) for i, text in enumerate("abcdef")]
    settings = SelfGenConfig(temperature=0.0, max_new_tokens=24)
    return generate(OwnEngine(tiny_target), prompts, settings, seed=0, captures=fresh.config.captures).samples


@pytest.fixture(scope="module")
def batch(samples: list[Sample]) -> Batch:
    return collate(samples, max_tokens=64, dtype=torch.float32)


@pytest.fixture(scope="module")
def draft(fresh: Draft, batch: Batch, tiny_target: Target) -> Draft:
    """Some of its tokens are accepted: it has learnt these answers for a moment."""
    learn(fresh, batch, tiny_target, is_repair=False, steps=45)
    return fresh


def learn(draft: Draft, batch: Batch, target: Target, *, is_repair: bool, steps: int) -> list[float]:
    loss, head = DraftLoss(draft, LossConfig(cross_entropy_weight=1.0, unroll_steps=2)), head_of(target)
    optimizer = torch.optim.Adam(draft.parameters(), lr=5e-3)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(batch, target.embed, head, None, is_repair).total
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


def head_of(target: Target) -> LmHead:
    return dataclasses.replace(target.lm_head, rows_VD=target.head_weight.clone())


Rejected = set[tuple[int, int, int]]


def places_of(draft: Draft, batch: Batch, target: Target, monkeypatch: pytest.MonkeyPatch) -> Rejected:
    """(sample, row, step) of what `DraftLoss` learns in repair."""
    found: list[list[Tensor]] = []

    def told(*arguments: Any) -> list[Tensor]:
        found.append(rejected_places(*arguments))
        return found[0]

    with monkeypatch.context() as patch:
        patch.setattr(training_loss, "rejected_places", told)
        DraftLoss(draft, LossConfig())(batch, target.embed, head_of(target), None, True)
    return {(b, s, j) for j, mask_BS in enumerate(found[0]) for b, s in mask_BS.nonzero().tolist()}


def test_places_are_where_decoding_ends_its_rounds(
    draft: Draft, samples: list[Sample], batch: Batch, tiny_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round of a replay but the last, which the answer's end may have cut: row = place - 1, step = accepted."""
    got = places_of(draft, batch, tiny_target, monkeypatch)
    head = draft.head(tiny_target.lm_head, torch.arange(112) if draft.places.head else None)
    replay = Replay(draft, tiny_target.embed, head, num_draft_tokens=SIMULATED_DEPTH)
    # Training begins with the answer's first token: the place before it is the last one that is known.
    replay.run([Transcript(each.token_ids, each.num_prompt_tokens - 1, each.features.float()) for each in samples])
    wanted: Rejected = set()
    unsure = set()
    for number, (sample, rounds) in enumerate(zip(samples, replay.emitted, strict=True)):
        place = sample.num_prompt_tokens - 1
        for index, emitted in enumerate(rounds):
            key = (number, place - 1, emitted - 1)
            if index == len(rounds) - 1:
                unsure.add(key)
            elif emitted <= SIMULATED_DEPTH:
                wanted.add(key)
            place += emitted
    assert got - unsure == wanted
    assert {step for _, _, step in wanted} >= {0, 1, 2}


def test_the_loss_is_that_of_these_places_over_the_answers_tokens(
    draft: Draft, batch: Batch, tiny_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, head = places_of(draft, batch, tiny_target, monkeypatch), head_of(tiny_target)
    settings = LossConfig(regression_weight=0.5, cross_entropy_weight=0.3, feature_noise=0.2)
    loss = DraftLoss(draft, settings)(batch, tiny_target.embed, head, None, True)  # and without noise, as decoding is
    steps = list(unroll(draft, tiny_target.embed, batch.token_ids_BL, batch.features_BLD, SIMULATED_DEPTH))
    total, num_tokens = 0.0, int((batch.has_feature_BL[:, 1:-1] & batch.loss_mask_BL[:, 2:]).sum())
    for sample, row, step in places:
        state_D, true_D = steps[step][sample, row], batch.head_in[sample, row + step + 1]
        target_probs = torch.softmax(head.rows_VD @ true_D, -1)
        entropy = -(target_probs * torch.log_softmax(draft.logits(state_D[None], head)[0], -1)).sum()
        regression = F.smooth_l1_loss(state_D, true_D).item() if draft.predicts_head_in else 0.0
        total += 0.5 * regression + 0.3 * entropy.item()
    assert loss.total.item() == pytest.approx(total / num_tokens, rel=1e-4)
    assert len(places) < num_tokens / 2  # accepted tokens are not learnt


@pytest.mark.parametrize("distribution", [DistributionLoss.CROSS_ENTROPY, DistributionLoss.LK])
def test_parts_add_up_to_the_whole(
    draft: Draft, samples: list[Sample], batch: Batch, tiny_target: Target, distribution: DistributionLoss
) -> None:
    loss, head = DraftLoss(draft, LossConfig(distribution=distribution)), head_of(tiny_target)
    expected = loss(batch, tiny_target.embed, head, None, True).total
    parts = [[samples[i] for i in part] for part in split(range(len(samples)), 3)]
    batches = [collate(part, max_tokens=64, dtype=torch.float32) for part in parts]
    divisors_S = torch.stack([step_counts(each, loss.num_steps) for each in batches]).sum(0).tolist()
    total = sum(loss(each, tiny_target.embed, head, divisors_S, True).total for each in batches)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_its_steps_lower_it(draft: Draft, batch: Batch, tiny_target: Target) -> None:
    values = learn(copy.deepcopy(draft), batch, tiny_target, is_repair=True, steps=12)
    assert values[-1] < 0.9 * values[0]


def test_a_walk_by_hand() -> None:
    """Five places of an answer behind one of the prompt; chains of two tokens."""
    counts = torch.tensor([[False, True, True, True, True, True]])
    # Place 1 accepts one token and is rejected at step 1, the next round begins at 3: it accepts both tokens; then the
    # one of the target's own is the last.
    hits = [
        torch.tensor([[False, True, False, True, False, False]]),
        torch.tensor([[False, False, False, True, False]]),
    ]
    masks = rejected_places(hits, counts)
    assert [mask.nonzero().tolist() for mask in masks] == [[], [[0, 1]]]
    nothing = [torch.zeros(1, 6, dtype=torch.bool), torch.zeros(1, 5, dtype=torch.bool)]
    assert [mask.sum().item() for mask in rejected_places(nothing, counts)] == [5, 0]  # every token ends a round
    # A chain that the answer's end cuts has nothing to learn: the last place of all, accepted.
    cut = [torch.tensor([[False, False, False, False, False, True]]), torch.zeros(1, 5, dtype=torch.bool)]
    assert rejected_places(cut, counts)[1].sum() == 0


def test_early_stopping_would_end_before_it() -> None:
    with pytest.raises(ValidationError, match=r"repair_epochs is 1 and comes after all epochs"):
        TrainConfig(repair_epochs=1, early_stopping_patience=2)


def test_packs_of_jobs_without_it_keep_their_bytes() -> None:
    assert "repair_epochs" not in TrainConfig().model_dump(mode="json")
    assert TrainConfig(repair_epochs=2).model_dump(mode="json")["repair_epochs"] == 2


def test_plans_count_it() -> None:
    """Per step five positions instead of one."""
    shape, lengths = ModelShape(10, 80, 2, 2, 1, 10, 100, 1e4), Lengths(30, 20)

    def job(**train: int) -> AdaptConfig:
        return AdaptConfig(target=TargetSpec(model="m"), train=TrainConfig(max_tokens=64, **train))

    plain, asked = job(epochs=2), job(epochs=1, repair_epochs=1)
    work = workload(plain, shape, lengths)
    two, repaired = (make_plan(each, shape, CORE, lengths).stage("train") for each in (plain, asked))
    assert (repaired.tokens, repaired.storage_bytes) == (two.tokens, two.storage_bytes)
    one_position = work.num_steps / 2 * work.tokens_per_step / 2 * work.flops_per_token / CORE.train_flops_per_s
    assert repaired.seconds - two.seconds == pytest.approx(4 * one_position)
    assert repaired.memory_bytes > two.memory_bytes
