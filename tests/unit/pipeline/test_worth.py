"""Drafts measured by their files, and the adaptation that ends because its draft has lost too little.

The draft has learnt the base target's answers, so an adapter that changes nothing costs it nothing, and one that
changes much costs it much.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from overfit_drafts import overfit_draft, user_prompts
from tiny_models import draft_config, register_draft, write_adapter

from eda_service.config.job import AdaptConfig, EvalConfig, TargetSpec
from eda_service.decoding.build import load_drafts
from eda_service.drafts.draft import Draft
from eda_service.engines.own import OwnEngine
from eda_service.errors import InputError, NotWorthItError
from eda_service.evaluation.measure import measure
from eda_service.pipeline import measuring
from eda_service.pipeline.measuring import check_staged, measure_draft, own_target, require_gain
from eda_service.pipeline.prepare import PROMPTS_FILE, prepare_generation
from eda_service.pipeline.validate import run_validate
from eda_service.records import BASE
from eda_service.storage.published.registry import find_draft_manifest
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import Target, load_target

TEXTS = [f"the user {n}" for n in range(8)]
CPU = torch.device("cpu")


@dataclass
class World:
    """A home with a draft, tiny@1, for the tiny Llama, and two tunings of that."""

    draft_dir: Path
    base: TargetSpec
    same: TargetSpec
    other: TargetSpec
    dataset: Path

    def config(self, target: TargetSpec, **changes: object) -> AdaptConfig:
        values = {
            "target": target.model_dump(),
            "base_draft": "tiny@1",
            "dataset": {"source": str(self.dataset), "num_prompts": 8},
            "evaluation": {"num_prompts": 4, "max_new_tokens": 24, "temperatures": [0.0, 1.0]},
            "selfgen": {"max_prompt_tokens": 64},
        }
        return AdaptConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def learnt(tiny_target: Target) -> Draft:
    return overfit_draft(tiny_target, draft_config(tiny_target), None, TEXTS, steps=80, tokens=24)[0]


@pytest.fixture
def world(
    learnt: Draft,
    tiny_target: Target,
    target_dir: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    monkeypatch.setenv("EDA_HOME", str(tmp_path))
    rows = [{"id": str(n), "prompt": text} for n, text in enumerate(TEXTS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = TargetSpec(model=str(target_dir("llama")), dtype="float32")
    adapters = [write_adapter(target_dir("llama"), tmp_path / f"std-{std}", seed=0, std=std) for std in (0.0, 0.2)]
    same, other = (base.model_copy(update={"adapter": str(path)}) for path in adapters)
    return World(register_draft(tmp_path, learnt, tiny_target), base, same, other, tmp_path / "rows.jsonl")


def test_a_draft_that_lost_nothing_ends_the_job_before_anything_is_written(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "generate"
    directory.mkdir()
    with pytest.raises(NotWorthItError) as caught:
        prepare_generation(world.config(world.same, min_gain=1.02), directory, with_reference=False)
    assert caught.value.code == "not_worth_it"
    assert caught.value.message.startswith("tiny@1 keeps 100% of its acceptance on this target (")
    assert "at most a factor of 1.000, and min_gain is 1.02" in caught.value.message
    assert list(directory.iterdir()) == []
    made = prepare_generation(world.config(world.same), directory, with_reference=False)
    assert (directory / PROMPTS_FILE).exists()
    assert made.gate_seconds == 0.0
    made = prepare_generation(world.config(world.other, min_gain=1.0), directory, with_reference=False)
    assert made.gate_seconds > 0.0  # what planning counts apart from the start of the stage


def test_a_draft_that_lost_much_is_adapted_up_to_what_it_lost(world: World, tiny_target: Target) -> None:
    """Oracle: lengths measured on the two loaded targets."""
    target, prompts = load_target(world.other), user_prompts(TEXTS)
    engine = OwnEngine(target)
    settings = EvalConfig(max_new_tokens=24, num_prompts=3, temperatures=(0.0,), num_timed_prompts=0)
    found = measure_draft(
        world.other, world.draft_dir, None, prompts, settings, max_prompt_tokens=64, base=world.base, device=CPU
    )
    loaded = load_drafts(world.draft_dir, None, target=target)
    ids = [prompt.token_ids(target.tokenizer) for prompt in prompts[:3]]
    lengths = [measure(each, {BASE: loaded}, ids, settings).acceptance for each in (target, tiny_target)]
    assert (found.acceptance, found.base_acceptance) == tuple(lengths)
    assert found.num_prompts == 3
    gain = lengths[1][0].acceptance_length / lengths[0][0].acceptance_length
    assert gain > 1.2
    assert found.most_gain == pytest.approx(gain)

    config = world.config(world.other, evaluation=settings.model_dump())
    require_gain(config.model_copy(update={"min_gain": 0.999 * gain}), engine, prompts)
    with pytest.raises(NotWorthItError, match=f"at most a factor of {gain:.3f}"):
        require_gain(config.model_copy(update={"min_gain": 1.001 * gain}), engine, prompts)


def test_the_target_of_a_draft(world: World, tmp_path: Path) -> None:
    manifest = find_draft_manifest("tiny@1")
    assert own_target(world.other, manifest) == world.base
    assert own_target(world.base, manifest) is None  # full weights, and a draft that does not say
    made_for = manifest.model_copy(update={"config": {"target": {"model": "acme/base", "revision": "abc"}}})
    assert own_target(world.base, made_for) == TargetSpec(model="acme/base", revision="abc", dtype="float32")
    shipped = own_target(TargetSpec(model="smollm2-135m-math"), manifest)
    assert shipped == TargetSpec(model="smollm2-135m-instruct")
    config = world.config(world.base, min_gain=1.1)
    run = RunDir.of_job("job", tmp_path)
    run.create(config, origin="ray")
    with pytest.raises(InputError, match="neither the target nor tiny@1 says what the target was tuned from"):
        run_validate(run, config)


def test_a_staged_draft_is_checked_where_its_target_finds_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check_staged(world.draft_dir, world.base, device=CPU, num_prompts=3)
    assert found.skipped is None
    assert found.num_prompts == 3
    assert found.declared is not None
    monkeypatch.setattr(measuring, "lacking_room", lambda path, **_: "loading it takes about 16 GB")
    skipped = check_staged(world.draft_dir, world.base, device=CPU)
    wanted = (
        f"{world.base.model} cannot answer here: loading it takes about 16 GB; check it on a larger machine, or "
        "through vLLM (eda measure --engine vllm)"
    )
    assert skipped.advice == f"not measured: {wanted}"
