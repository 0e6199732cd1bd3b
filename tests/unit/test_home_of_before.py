"""A home that the version before the rooms were moved has written: its job, base draft and pack are read as they were.

`tests/fixtures/home_before_rooms` holds the job `eda` of `python -m benchmarks.golden`, made by commit 2e52144, without
Ray's and TensorBoard's own files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from eda_service.config.job import AdaptConfig, Method
from eda_service.drafts.checkpoint import load_pack
from eda_service.records import (
    DraftCheckpoint,
    EvalReport,
    PackManifest,
    Record,
    SelectionManifest,
    SelfGenManifest,
    Stage,
    ValidateRecord,
)
from eda_service.storage.published.registry import find_draft, find_pack, read_pack_manifest
from eda_service.storage.runs.curve import Curve
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Succeeded
from eda_service.storage.samples.shards import read_shard

BEFORE = Path(__file__).parents[1] / "fixtures" / "home_before_rooms"
GOLDEN = Path(__file__).parents[2] / "benchmarks" / "results" / "golden.json"
JOB_ID = "adapt_golden_eda"
KINDS: dict[Stage, type[Record]] = {
    Stage.VALIDATE: ValidateRecord,
    Stage.GENERATE: SelfGenManifest,
    Stage.SELECT: SelectionManifest,
    Stage.TRAIN: DraftCheckpoint,
    Stage.EVALUATE: EvalReport,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """The job, in a home that this process uses."""
    home = tmp_path / "home"
    shutil.copytree(BEFORE, home)
    monkeypatch.setenv("EDA_HOME", str(home))
    return RunDir.of_job(JOB_ID)


def test_every_record_is_read_and_its_files_are_whole(run: RunDir) -> None:
    for stage, kind in KINDS.items():
        record = run.read_record(kind, stage)
        assert record is not None, stage
        assert record.stage is stage


def test_acceptance_lengths_are_those_that_were_measured(run: RunDir) -> None:
    report = run.read_record(EvalReport, Stage.EVALUATE)
    assert report is not None
    read = [[row.draft, row.temperature, repr(row.acceptance_length)] for row in report.acceptance]
    assert read == json.loads(GOLDEN.read_text(encoding="utf-8"))["methods"]["eda"]["acceptance"]


def test_job_events_progress_and_result_are_read(run: RunDir) -> None:
    config = run.config()
    assert isinstance(config, AdaptConfig)
    assert (config.public_name, config.train.method, config.target.dtype) == ("golden-eda", Method.EDA, "float32")
    types = [event["type"] for event in run.read_events()]
    assert types[0] == "stage_started"
    assert types.count("stage_finished") == 6
    result = run.read_result()
    assert isinstance(result, Succeeded)
    assert result.pack == "golden-eda@1"
    progress = run.read_progress()
    assert progress is not None
    assert progress.stage == "publish"


def test_shards_of_the_compact_set_are_read_with_their_hidden_states(run: RunDir) -> None:
    selection = run.read_record(SelectionManifest, Stage.SELECT)
    assert selection is not None
    directory = run.stage_dir(Stage.SELECT)
    names = sorted({path.name.split(".")[0] for path in directory.glob("*.tokens.safetensors")})
    samples = [sample for name in names for sample in read_shard(directory, name)]
    assert len(samples) == selection.num_selected
    for sample in samples:
        assert sample.features is not None
        assert sample.features.shape == (len(sample.token_ids) - 1, 32)


def test_the_curve_of_training_is_read(run: RunDir) -> None:
    points = list(Curve(run.stage_dir(Stage.TRAIN)).read())
    assert points
    assert [point.step for point in points] == sorted(point.step for point in points)


def test_base_draft_and_pack_load_and_the_frozen_part_is_the_base_drafts(run: RunDir) -> None:
    assert isinstance(read_pack_manifest(find_pack("golden-eda@1")), PackManifest)
    loaded = load_pack(find_draft("tiny@1"), find_pack("golden-eda@1"), dtype=torch.float32)
    assert loaded.trained
    assert all("private" in name or "gate" in name for name in loaded.trained)
