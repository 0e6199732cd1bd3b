"""Cells that only score differently share samples: the same settings give the same values, others give others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.paper.data import _score_again
from eda_service.config.job import AdaptConfig, DatasetSpec, SelectionConfig, SelfGenConfig, TargetSpec
from eda_service.pipeline.generate import GENERATE, fields_of, shards_of
from eda_service.pipeline.generation_actor import ShardWriter, WriterSettings
from eda_service.pipeline.prepare import prepare_generation
from eda_service.records import SelfGenManifest, Stage
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import Target

SELECTION = SelectionConfig(num_reference_prompts=8, reference_max_new_tokens=16, pca_dim=8)


@pytest.fixture
def config(target_dir: Callable[[str], Path], tmp_path: Path) -> AdaptConfig:
    prompts = tmp_path / "prompts.jsonl"
    lines = (json.dumps({"prompt": f"the user and the other number {i}"}) for i in range(24))
    prompts.write_text("".join(line + "\n" for line in lines))
    return AdaptConfig(
        target=TargetSpec(model=str(target_dir("llama")), dtype="float32"),
        dataset=DatasetSpec(source=str(prompts), num_prompts=24),
        selfgen=SelfGenConfig(max_new_tokens=16, batch_size=8, shard_size=8, threads_per_actor=1),
        selection=SELECTION,
    )


@pytest.fixture
def source(config: AdaptConfig, tmp_path: Path) -> RunDir:
    """A finished generate stage, made by the stage's own parts without Ray."""
    run = RunDir.of_job("data", tmp_path)
    run.create(config, origin="benchmark")
    directory = run.stage_dir(Stage.GENERATE)
    prepared = prepare_generation(config, directory, with_reference=True)
    reference = file_entry(directory, directory / "reference.safetensors")
    writer = ShardWriter(WriterSettings(config, directory, reference=(reference,)))
    shards = shards_of(directory, config.selfgen)
    for shard in shards:
        writer({name: [value] for name, value in shard.items()})
    fields = fields_of(config, directory, [shard["shard"] for shard in shards], prepared)
    run.write_record(GENERATE.record_of(config, fields, seconds=1.0))
    return run


def values(run: RunDir) -> dict[str, float]:
    record = run.read_record(SelfGenManifest, Stage.GENERATE)
    assert record is not None
    return {score.sample_id: score.sample_value for score in record.scores}


def test_samples_are_shared_and_scored_by_the_cells_own_settings(
    config: AdaptConfig, source: RunDir, tiny_target: Target, tmp_path: Path
) -> None:
    same, other = RunDir.of_job("same", tmp_path), RunDir.of_job("other", tmp_path)
    _score_again(source, same, config, tiny_target)
    assert values(same) == pytest.approx(values(source))
    lower = config.model_copy(update={"selection": SELECTION.model_copy(update={"quantile": 0.25})})
    _score_again(source, other, lower, tiny_target)
    assert all(value < values(source)[sample] for sample, value in values(other).items())
    shard = "shard-00000.features.safetensors"
    assert (other.root / "generate" / shard).samefile(source.root / "generate" / shard)


def test_a_selector_that_looks_at_the_draft_has_them_measured_with_it(
    config: AdaptConfig, source: RunDir, tiny_target: Target, tmp_path: Path, base_draft_dir: Path
) -> None:
    run = RunDir.of_job("by-draft", tmp_path)
    selection = SelectionConfig(method="draft_rejections")
    _score_again(source, run, config.model_copy(update={"selection": selection, "base_draft": "tiny@1"}), tiny_target)
    record = run.read_record(SelfGenManifest, Stage.GENERATE)
    assert record is not None
    assert record.value_name == "draft_rejections"
    for value, score in zip(values(run).values(), record.scores, strict=True):
        count = value * (score.num_answer_tokens - 1)  # a share of the answer's tokens but the first
        assert count == pytest.approx(round(count), abs=1e-9)
    assert len(set(values(run).values())) > 1
