"""EAGLE-3 held against vLLM's own classes, unmodified: every drafted token, and what is accepted in every round.

Targets and drafts are tiny and in float32. The drafts' files are written by hand (`eagle3_files`), in the dialects that
vLLM reads, and decoded by vLLM as they are; our engine runs the same tensors.
"""

from __future__ import annotations

import pytest
import torch
from eagle3_drafts import eagle3_config, fit_eagle3
from eagle3_files import CASES, write_files
from recording import MAX_TOKENS, NUM_DRAFTED, Decoded, own_engine, prompts, run_vllm

from eda_service.targets.loader import Target

Run = tuple[Decoded, Decoded, str]


@pytest.fixture(scope="module")
def runs(deep_targets: dict[str, Target], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every case in our engine and, in one process of its own, in vLLM."""
    place, own, jobs = tmp_path_factory.mktemp("eagle3"), [], []
    for number, case in enumerate(CASES.values()):
        target = deep_targets[case.family]
        draft = fit_eagle3(target, eagle3_config(target, **case.shape), case.vocab_W, prompts(), seed=number)
        embedding = target.embed.weight
        assert isinstance(embedding, torch.Tensor)
        directory = write_files(place / str(number), case, draft, embedding.detach())
        own.append(own_engine(target, draft, case.vocab_W, prompts(), NUM_DRAFTED, MAX_TOKENS))
        jobs.append((target.spec.model, directory))
    theirs = run_vllm(jobs, prompts(), NUM_DRAFTED, MAX_TOKENS, place)
    return {name: (own[i], *theirs[i]) for i, name in enumerate(CASES)}


@pytest.mark.parametrize("name", CASES)
def test_it_drafts_what_vllms_own_class_drafts(name: str, runs: dict[str, Run]) -> None:
    own, theirs, draft_class = runs[name]
    assert draft_class == CASES[name].draft_class
    assert own.token_ids == theirs.token_ids
    for ours, vllms in zip(own.proposed, theirs.proposed, strict=True):
        assert ours == vllms[: len(ours)]
    assert own.emitted == theirs.emitted
    rounds = [count for each in own.emitted for count in each[1:]]
    assert len(rounds) < 12 * (MAX_TOKENS - 1) * 0.8  # a fifth of the tokens was drafted
