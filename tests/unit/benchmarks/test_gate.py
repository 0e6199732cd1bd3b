"""Gate statistics: an untouched gate is even and holding it changes nothing; one that moves is seen to move."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from benchmarks.paper.gate import gate_statistics, private_weights
from eda_service.config.job import TreeConfig
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import PrivateConfig
from eda_service.drafts.head import DraftHead
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.replay import Replay, Transcript, transcribe
from eda_service.targets.loader import Target

TREE = TreeConfig(size=6, depth=3, width=3)


@pytest.fixture
def texts(tiny_target: Target) -> list[Transcript]:
    prompts = [[5 + i, 9, 40 + i] for i in range(4)]
    return transcribe(OwnEngine(tiny_target), prompts, SamplingParams(max_new_tokens=30), batch_size=4)


@pytest.fixture
def adapted(make_fitted_draft: Callable[[str], Draft]) -> Draft:
    draft = copy.deepcopy(make_fitted_draft("llama")).requires_grad_(False)
    draft.add_private(PrivateConfig(private_width=draft.config.expert_width))
    return draft


def test_an_even_gate_and_its_mean_are_the_same(tiny_target: Target, adapted: Draft, texts: list[Transcript]) -> None:
    found = gate_statistics(tiny_target, LoadedDraft(adapted, None), texts, TREE)
    assert found is not None
    assert (found["private_mean"], found["private_std"]) == (0.5, 0.0)
    head = DraftHead(tiny_target.lm_head, None)
    stats = Replay(adapted, tiny_target.embed, head, tree=TREE).run(texts)
    learnt = summarise("", 0.0, stats, num_draft_tokens=TREE.depth).acceptance_length
    assert learnt == pytest.approx(found["acceptance_length_gate_held"], abs=0.05)
    assert learnt > 1.05


def test_a_gate_that_follows_its_input_spreads(tiny_target: Target, adapted: Draft, texts: list[Transcript]) -> None:
    ffn = adapted.layer.mlp
    assert isinstance(ffn, SharedPrivateFFN)
    assert ffn.gate is not None
    torch.manual_seed(0)
    torch.nn.init.normal_(ffn.gate.proj.weight)
    weights_N = private_weights(adapted, tiny_target.embed, texts)
    assert len(weights_N) == sum(len(text.token_ids) - text.num_prompt_tokens - 2 for text in texts)
    assert weights_N.std() > 0.05


def test_a_draft_without_a_gate_has_no_statistics(
    tiny_target: Target, make_fitted_draft: Callable[[str], Draft], texts: list[Transcript]
) -> None:
    assert gate_statistics(tiny_target, LoadedDraft(make_fitted_draft("llama"), None), texts, TREE) is None
