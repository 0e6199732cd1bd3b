"""Simulated acceptance (Eq. 2 along a sample's own text) against a loop over starts, and against real decoding.

Shapes: B samples, L positions, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from eda_service.config.job import SelfGenConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.acceptance import summarise
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt
from eda_service.targets.head import LmHead
from eda_service.targets.loader import Target
from eda_service.training import simulate
from eda_service.training.batches import Batch, collate
from eda_service.training.simulate import simulated_acceptance_length


@pytest.fixture(scope="module")
def batch(make_target: Callable[[str], Target]) -> Batch:
    """Greedy self-generated samples of different lengths."""
    prompts = [Prompt(id=str(i), messages=[{"role": "user", "content": text}]) for i, text in enumerate("abcdefgh")]
    settings = SelfGenConfig(temperature=0.0, max_new_tokens=24)
    samples = generate(OwnEngine(make_target("llama")), prompts, settings, seed=0).samples
    return collate(samples, max_tokens=64, dtype=torch.float32)


def test_against_a_loop_over_rounds(
    batch: Batch, tiny_target: Target, tiny_draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft that predicts two features of three exactly and the others not at all."""
    depth, head_VD = 3, tiny_target.head_weight
    steps = []
    for step in range(depth):
        predicted_BSD = batch.features_BLD[:, step + 1 : -1].clone()
        wrong_BS = torch.rand(predicted_BSD.shape[:2], generator=torch.Generator().manual_seed(step)) < 0.3
        predicted_BSD[wrong_BS] *= -1.0
        steps.append(predicted_BSD)
    monkeypatch.setattr(simulate, "unroll", lambda *_, **__: iter(steps))
    got = simulated_acceptance_length(tiny_draft, [batch], tiny_target.embed, LmHead(head_VD), depth=depth)
    lengths, tokens, rounds = batch.has_feature_BL.sum(1) + 1, 0, 0
    for sample in range(len(lengths)):
        row, end = 0, int(lengths[sample]) - 2
        while row < end:
            if not batch.loss_mask_BL[sample, row + 2]:
                row += 1
                continue
            rounds += 1
            first = row
            while row < end:
                drafted = int((head_VD @ steps[row - first][sample, first]).argmax()) if row - first < depth else -1
                row += 1
                if drafted != int((head_VD @ batch.features_BLD[sample, row]).argmax()):
                    break
            tokens += row - first
    assert 2.0 < tokens / rounds < depth
    assert got == pytest.approx(tokens / rounds)


def test_a_perfect_draft_is_accepted_everywhere(
    batch: Batch, tiny_target: Target, tiny_draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every feature predicted exactly, each round gives two tokens, but the last of an answer of odd length."""

    def perfect(*_: object, **__: object) -> Iterator[torch.Tensor]:
        yield batch.features_BLD[:, 1:-1]

    monkeypatch.setattr(simulate, "unroll", perfect)
    head_VD = tiny_target.head_weight
    lengths = (batch.has_feature_BL[:, 1:-1] & batch.loss_mask_BL[:, 2:]).sum(1)
    got = simulated_acceptance_length(tiny_draft, [batch], tiny_target.embed, LmHead(head_VD), depth=1)
    assert got == pytest.approx(int(lengths.sum()) / int(((lengths + 1) // 2).sum()))


def test_agrees_with_decoding(tiny_target: Target, batch: Batch, make_fitted_draft: Callable[[str], Draft]) -> None:
    """On greedy text the walked rounds are those of decoding, but for where answers begin and end."""
    draft = make_fitted_draft("llama")
    simulated = simulated_acceptance_length(draft, [batch], tiny_target.embed, tiny_target.lm_head, depth=3)
    head = DraftHead(tiny_target.lm_head, None)
    engine = Engine(tiny_target, draft, head, num_draft_tokens=3, max_batch=8, max_tokens=80)
    for row in range(batch.token_ids_BL.shape[0]):
        num_prompt = int(batch.loss_mask_BL[row].int().argmax())
        ids = batch.token_ids_BL[row, :num_prompt].tolist()
        engine.submit(str(row), ids, SamplingParams(max_new_tokens=24))
    stats = [outputs[-1].stats for outputs in run_to_end(engine).values()]
    decoded = summarise("d", 0.0, stats, num_draft_tokens=3).acceptance_length
    assert simulated == pytest.approx(decoded, rel=0.05)


def test_nothing_to_count_is_one(batch: Batch, tiny_target: Target, tiny_draft: Draft) -> None:
    empty = Batch(batch.token_ids_BL, batch.features_BLD, torch.zeros_like(batch.loss_mask_BL), batch.has_feature_BL)
    head_VD = tiny_target.head_weight
    assert simulated_acceptance_length(tiny_draft, [empty], tiny_target.embed, LmHead(head_VD), depth=3) == 1.0
