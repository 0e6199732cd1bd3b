"""A draft in the form that its makers publish, through the import's own stages: what is registered decodes, trains and
says what was assumed. The stage of the check needs Ray and is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import speculative
from published_drafts import VOCAB_W, write_published
from tiny_models import fit_draft, random_eagle3

from eda_service.config.job import TargetSpec
from eda_service.config.tasks import ImportConfig
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import load_base_draft
from eda_service.drafts.draft import Draft
from eda_service.errors import DraftIncompatibleError
from eda_service.evaluation.decode import decode_all
from eda_service.pipeline import import_draft
from eda_service.storage.published import registry
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import Target


@pytest.fixture(scope="module")
def draft(tiny_target: Target) -> Draft:
    shape = random_eagle3(tiny_target, rope_theta=500.0)
    return fit_draft(tiny_target, steps=120, draft=shape, vocab_W=VOCAB_W).requires_grad_(False)


@pytest.fixture
def published(draft: Draft, tmp_path: Path) -> Callable[..., Path]:
    """Files as EAGLE's authors write them, with changes of their config."""
    return lambda **changes: write_published(tmp_path / "EAGLE3-tiny", draft, **changes)


def imported(home: Path, target: Target, source: Path, **settings: Any) -> Path:
    spec = TargetSpec(model=target.spec.model, dtype="float32")
    config = ImportConfig(source=str(source), target=spec, name="mine", check=False, **settings)
    run = RunDir.of_job(f"import_{len(registry.draft_versions('mine', home)) + 1}", home)
    run.create(config, origin="ray")
    return registry.find_draft(import_draft.import_draft(run, config).draft, home)


def test_what_is_registered_drafts_as_the_published_draft_does(
    home: Path, tiny_target: Target, draft: Draft, published: Callable[..., Path]
) -> None:
    directory = imported(home, tiny_target, published())
    loaded = load_base_draft(directory, dtype=torch.float32)
    assert loaded.vocab_W is not None
    assert loaded.vocab_W.tolist() == VOCAB_W.tolist()
    rng, params = torch.Generator().manual_seed(0), SamplingParams(max_new_tokens=24)
    prompts = [torch.randint(3, 112, (4,), generator=rng).tolist() for _ in range(4)]  # some that it learnt
    halves = {name: p.half().float() for name, p in draft.named_parameters()}
    same = random_eagle3(tiny_target, rope_theta=500.0)
    same.load_state_dict(halves)
    wanted, got = (
        decode_all(speculative(tiny_target, each.requires_grad_(False), vocab_W=VOCAB_W), prompts, params)
        for each in (same, loaded.draft)
    )
    plain = decode_all(Engine(tiny_target, max_batch=2, max_tokens=64), prompts, params)
    assert got.token_ids == wanted.token_ids == plain.token_ids
    assert [each.num_accepted_tokens for each in got.stats] == [each.num_accepted_tokens for each in wanted.stats]
    assert sum(each.num_accepted_tokens for each in got.stats) > 10
    manifest = registry.read_draft_manifest(directory)
    assert (manifest.kind, manifest.hidden_size) == ("eagle3", 32)
    assert manifest.assumed == ()


def test_what_a_file_leaves_out_is_told_and_what_is_set_by_hand_is_kept(
    home: Path, tiny_target: Target, published: Callable[..., Path]
) -> None:
    silent = imported(home, tiny_target, published(rope_theta=None, norm_before_residual=None))
    assert [each.split(":")[0] for each in registry.read_draft_manifest(silent).assumed] == ["rope_theta = 10000.0"]
    by_hand = {"norm_before_residual": "true", "rope_theta": "500"}
    mended = imported(home, tiny_target, published(rope_theta=None, norm_before_residual=None), overrides=by_hand)
    assert mended.name == "2"
    manifest = registry.read_draft_manifest(mended)
    assert manifest.overrides == by_hand
    assert manifest.assumed == ()
    shapes = [load_base_draft(each, dtype=torch.float32).draft.config.model_dump() for each in (silent, mended)]
    assert [(each["norm_before_residual"], each["rope_theta"]) for each in shapes] == [(False, 10000.0), (True, 500.0)]


def test_nothing_is_registered_of_a_draft_for_another_target(
    home: Path, tiny_target: Target, published: Callable[..., Path]
) -> None:
    with pytest.raises(DraftIncompatibleError, match="target_hidden_size is 64, the target's states are 32 wide"):
        imported(home, tiny_target, published(target_hidden_size=64))
    assert registry.draft_versions("mine", home) == []
