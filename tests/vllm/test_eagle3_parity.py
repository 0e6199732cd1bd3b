"""EAGLE-3 held against vLLM's own classes, unmodified: every drafted token, and what is accepted in every round.

Targets and drafts are tiny and in float32. The drafts' files are written by hand (`eagle3_files`), in the dialects that
vLLM reads, and decoded by vLLM as they are; our engine runs the same tensors.
"""

from __future__ import annotations

import random

import pytest
import torch
from eagle3_drafts import eagle3_config, fit_eagle3
from eagle3_files import CASES, write_files
from recording import Decoded, own_engine, run_vllm
from tiny_models import write_target

from eda_service.config.job import TargetSpec
from eda_service.targets.loader import Target, load_target

NUM_DRAFTED = 3
MAX_TOKENS = 24
Run = tuple[Decoded, Decoded, str]


def prompts() -> list[list[int]]:
    """Twelve of 2 to 12 ordinary tokens."""
    rng = random.Random(4)
    return [[rng.randrange(3, 112) for _ in range(rng.randint(2, 12))] for _ in range(12)]


@pytest.fixture(scope="module")
def deep_targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    """A Llama and a Qwen3 of eight layers, with heads that vLLM's CPU attention takes."""
    made = {}
    for family in ("llama", "qwen3"):
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "head_dim": 32}
        directory = write_target(tmp_path_factory.mktemp(f"deep-{family}"), family, **sizes)
        made[family] = load_target(TargetSpec(model=str(directory), dtype="float32"))
    return made


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
