"""EAGLE-3 held against vLLM's own classes, unmodified: every drafted token, and what is accepted in every round.

Targets and drafts are tiny and in float32. The drafts' files are written by hand (`eagle3_files`), in the dialects that
vLLM reads, and decoded by vLLM as they are; our engine runs the same tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from eagle3_drafts import eagle3_config, fit_eagle3
from eagle3_files import CASES, write_files
from recording import MAX_TOKENS, NUM_DRAFTED, Decoded, Job, own_engine, prompts, run_vllm

from eda_service.drafts.eagle3 import Eagle3Draft
from eda_service.targets.loader import Target

pytestmark = pytest.mark.timeout(1200)


@dataclass(frozen=True)
class Run:
    """A case, decoded twice."""

    draft: Eagle3Draft
    own: Decoded
    theirs: Decoded
    draft_class: str


@pytest.fixture(scope="module")
def runs(deep_targets: dict[str, Target], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every case in our engine and, in one process of its own, in vLLM."""
    place = tmp_path_factory.mktemp("eagle3")
    drafts, own, jobs = [], [], []
    for number, case in enumerate(CASES.values()):
        target = deep_targets[case.family]
        draft = fit_eagle3(target, eagle3_config(target, **case.shape), case.vocab_W, prompts(), seed=number)
        embedding = target.embed.weight
        assert isinstance(embedding, torch.Tensor)
        directory = write_files(place / str(number), case, draft, embedding.detach())
        own.append(own_engine(target, draft, case.vocab_W, prompts(), NUM_DRAFTED, MAX_TOKENS))
        jobs.append(Job(target.spec.model, directory))
        drafts.append(draft)
    theirs = run_vllm(jobs, prompts(), NUM_DRAFTED, MAX_TOKENS, place)
    return {name: Run(drafts[i], own[i], *theirs[i]) for i, name in enumerate(CASES)}


@pytest.mark.parametrize("name", CASES)
def test_it_drafts_what_vllms_own_class_drafts(name: str, runs: dict[str, Run]) -> None:
    run = runs[name]
    assert run.draft_class == CASES[name].draft_class
    assert run.own.token_ids == run.theirs.token_ids
    for ours, vllms in zip(run.own.proposed, run.theirs.proposed, strict=True):
        assert ours == vllms[: len(ours)]
    assert run.own.emitted == run.theirs.emitted
    rounds = [count for each in run.own.emitted for count in each[1:]]
    assert len(rounds) < 12 * (MAX_TOKENS - 1) * 0.8  # a fifth of the tokens was drafted


@pytest.mark.parametrize("name", CASES)
def test_a_misreading_would_draft_something_else(
    name: str, runs: dict[str, Run], deep_targets: dict[str, Target]
) -> None:
    """So that what is equal above is equal because every field is read rightly."""
    run, case = runs[name], CASES[name]
    config, target, few = run.draft.shape, deep_targets[case.family], prompts()[:4]
    misreadings: list[dict[str, Any]] = [
        {"norm_before_residual": not config.norm_before_residual},
        {"norm_output": not config.norm_output},
        {"rope_theta": 2 * config.rope_theta} if config.rope_scaling is None else {"rope_scaling": None},
    ]
    if config.layers and config.layers[-1] < 8:
        misreadings.append({"layers": tuple(layer + 1 for layer in config.layers)})
    for changes in misreadings:
        misread = Eagle3Draft(config.model_copy(update=changes))
        misread.load_state_dict(run.draft.state_dict())
        misread.requires_grad_(False)
        got = own_engine(target, misread, case.vocab_W, few, NUM_DRAFTED, MAX_TOKENS)
        assert got.token_ids == run.own.token_ids[:4]
        assert got.proposed != run.own.proposed[:4], changes
