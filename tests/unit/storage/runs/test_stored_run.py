"""A job whose processes run on machines that share storage and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored import machine

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import ArtifactCorruptError, WorkerLostError
from eda_service.records import CurvePoint, SelectionManifest, Stage
from eda_service.storage.files import file_entry
from eda_service.storage.objects import ObjectStore
from eda_service.storage.runs.curve import Curve
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Succeeded

CONFIG = AdaptConfig(target=TargetSpec(model="org/model"))


def selection(directory: Path, name: str, seconds: float = 1.0) -> SelectionManifest:
    return SelectionManifest(
        stage=Stage.SELECT,
        created_at=1,
        seconds=seconds,
        config={},
        seed=0,
        library_versions={},
        inputs={},
        files=(file_entry(directory, directory / name),),
        num_candidates=2,
        num_selected=1,
        keep_fraction=0.5,
        threshold=1.0,
        selected_ids=("a",),
        num_answer_tokens=3,
        selection_seconds=0.1,
        selection_over_generation_time=0.01,
    )


@pytest.fixture
def runs(storage: ObjectStore, home: Path) -> tuple[RunDir, RunDir]:
    """The same job on two machines."""
    one, other = RunDir(home / "runs" / "adapt_1"), RunDir(home / "other" / "runs" / "adapt_1", attempt=2)
    one.create(CONFIG, origin="ray")
    return one, other


def test_small_files_are_seen_everywhere(runs: tuple[RunDir, RunDir]) -> None:
    one, other = runs
    assert other.config() == CONFIG
    one.progress(Stage.TRAIN, step=1, total_steps=4)
    seen = other.read_progress()
    assert seen is not None
    assert seen.percent == 25.0
    one.event("a", "first")
    other.event("b", "second")
    one.event("c", "third")
    assert [line["type"] for line in other.read_events()] == ["a", "b", "c"]
    assert [line["type"] for line in one.read_events(2)] == ["c"]
    one.fail(WorkerLostError("gone"))
    assert other.read_result(attempt=2) is None
    other.succeed("pack@1")
    result = one.read_result(attempt=2)
    assert isinstance(result, Succeeded)
    assert result.pack == "pack@1"
    other.clear_result()
    assert one.read_result() is None
    assert not (other.root / "job.json").exists()


def test_a_newer_attempt_on_another_machine_is_noticed(runs: tuple[RunDir, RunDir]) -> None:
    one, other = runs
    with one.driver_lock(timeout_s=1):
        assert not one.is_superseded
        with other.driver_lock(timeout_s=1):
            assert one.is_superseded
            assert not other.is_superseded


def test_a_record_comes_after_its_files_and_the_first_one_counts(runs: tuple[RunDir, RunDir]) -> None:
    one, other = runs
    for run, text in ((one, "one"), (other, "other")):
        (run.stage_dir(Stage.SELECT) / "shard").write_text(text)
    mine, late = selection(one.root / "select", "shard"), selection(other.root / "select", "shard", 9.0)
    assert other.read_record(SelectionManifest, Stage.SELECT) is None
    one.store.upload(Stage.SELECT, mine.files)
    assert other.read_record(SelectionManifest, Stage.SELECT) is None
    assert one.write_record(mine) == mine
    other.store.upload(Stage.SELECT, late.files)
    assert other.write_record(late) == mine
    other.store.fetch(Stage.SELECT, mine.files)
    assert (other.root / "select" / "shard").read_text() == "one"


def test_a_record_that_does_not_parse_is_replaced(runs: tuple[RunDir, RunDir]) -> None:
    one, other = runs
    one.store.objects.write("select/record.json", b'{"schema_version": 0}')
    with pytest.raises(ArtifactCorruptError, match="does not parse"):
        other.read_record(SelectionManifest, Stage.SELECT)
    (one.stage_dir(Stage.SELECT) / "shard").write_text("one")
    made = selection(one.root / "select", "shard")
    assert one.write_record(made) == made
    assert other.read_record(SelectionManifest, Stage.SELECT) == made


def test_growing_files_are_shared(runs: tuple[RunDir, RunDir]) -> None:
    one, other = runs
    assert other.logs() == {}
    one.log_path(Stage.TRAIN).write_text("line\n")
    one.share_log(Stage.TRAIN)
    one.share_log(Stage.SELECT)  # has logged nothing
    assert {stage: path.read_text() for stage, path in other.logs().items()} == {Stage.TRAIN: "line\n"}
    point = CurvePoint(step=1, loss=2.0, regression_loss=1.0, cross_entropy_loss=1.0, learning_rate=0.1)
    Curve(one.stage_dir(Stage.TRAIN)).append(point)
    one.store.share("train/curve.jsonl")
    assert list(Curve(other.store.shared("train/curve.jsonl").parent).read()) == [point]


def test_a_machine_of_its_own(home: Path) -> None:
    with machine(home / "second") as second:
        assert RunDir.of_job("adapt_1").root == second / "runs" / "adapt_1"
