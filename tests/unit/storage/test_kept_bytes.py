"""What a run directory keeps is what is told of it, and what training went on from goes once its record is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.jobs.job_records import read_records
from eda_service.pipeline.train import TRAIN
from eda_service.records import Stage
from eda_service.storage.objects import DirectoryObjects
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.run_store import ByHash

CHECKPOINT, PACK = 5_000, 700


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A job that has trained: two checkpoints and the best weights."""
    found = RunDir.of_job("adapt_1", tmp_path)
    for step in (50, 100):
        directory = found.stage_dir(Stage.TRAIN) / "ray" / "adapt_1" / f"step-{step}"
        directory.mkdir(parents=True)
        (directory / "state.pt").write_bytes(bytes(CHECKPOINT))
    (found.stage_dir(Stage.TRAIN) / "pack").mkdir()
    (found.stage_dir(Stage.TRAIN) / "pack" / "pack.safetensors").write_bytes(bytes(PACK))
    return found


def test_checkpoints_go_after_training_and_the_pack_stays(run: RunDir) -> None:
    assert read_records(run).disk_bytes == {Stage.TRAIN: 2 * CHECKPOINT + PACK}
    TRAIN.afterwards(run)
    assert read_records(run).disk_bytes == {Stage.TRAIN: PACK}
    assert [(event["type"], event["message"]) for event in run.read_events()] == [
        ("checkpoints_deleted", "10.0 kB of checkpoints freed")
    ]
    TRAIN.afterwards(run)
    assert len(run.read_events()) == 1


def test_on_storage_they_go_too(tmp_path: Path) -> None:
    far = tmp_path / "storage"
    store = ByHash(tmp_path / "run", DirectoryObjects(far))
    for name in ("train/ray/job/step-50/rank_0/state.pt", "train/ray/job/step-50/meta.json", "train/record.json"):
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        (far / name).write_bytes(b"x")
    store.forget_folder("train/ray")
    assert [str(path.relative_to(far)) for path in far.rglob("*") if path.is_file()] == ["train/record.json"]
    assert store.kept_bytes("train") is None
