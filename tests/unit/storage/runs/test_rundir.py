"""The run directory: round trips of its small files, and what a reader sees of one that is torn or wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig
from eda_service.errors import ArtifactCorruptError, DatasetInvalidError
from eda_service.records import FileEntry, SelectionManifest, Stage
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir, home_dir
from eda_service.storage.runs.state import Failed, Failure, Succeeded


@pytest.fixture
def run(home: Path) -> RunDir:
    made = RunDir.of_job("adapt_1")
    made.create(AdaptConfig.model_validate({"target": {"model": "org/m"}, "seed": 5}), origin="api")
    return made


def selection_record(files: tuple[FileEntry, ...] = ()) -> SelectionManifest:
    return SelectionManifest(
        stage=Stage.SELECT,
        created_at=1,
        seconds=2.0,
        config={},
        seed=5,
        library_versions={},
        inputs={},
        files=files,
        num_candidates=4,
        num_selected=2,
        keep_fraction=0.5,
        threshold=1.5,
        selected_ids=("a", "b"),
        num_answer_tokens=10,
        selection_seconds=0.1,
        selection_over_generation_time=0.01,
    )


def test_home_comes_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_dir() == home.resolve()
    monkeypatch.delenv("EDA_HOME")
    assert home_dir() == Path("~/.eda").expanduser().resolve()


def test_config_round_trip(run: RunDir, home: Path) -> None:
    assert run.root == home / "runs" / "adapt_1"
    assert run.config() == AdaptConfig.model_validate({"target": {"model": "org/m"}, "seed": 5})
    job = run.read_job()
    assert job is not None
    assert (job.id, job.origin, job.row_fields) == ("adapt_1", "api", None)


def test_a_job_that_is_not_there_or_not_valid_is_corrupt(run: RunDir) -> None:
    with pytest.raises(ArtifactCorruptError, match=r"job\.json is missing or invalid"):
        RunDir.of_job("adapt_none").config()
    (run.root / "job.json").write_text(json.dumps({"config": {"target": {"model": "m"}, "unknown": 1}}))
    with pytest.raises(ArtifactCorruptError, match="unknown"):
        run.config()


def test_record_round_trip(run: RunDir) -> None:
    assert run.read_record(SelectionManifest, Stage.SELECT) is None
    path = run.stage_dir(Stage.SELECT) / "data"
    path.write_bytes(b"abc")
    record = selection_record((file_entry(path.parent, path),))
    run.write_record(record)
    assert run.read_record(SelectionManifest, Stage.SELECT) == record
    path.write_bytes(b"abd")
    with pytest.raises(ArtifactCorruptError, match="has sha256"):
        run.read_record(SelectionManifest, Stage.SELECT)
    assert run.read_record(SelectionManifest, Stage.SELECT, verify=False) == record


def test_a_record_that_does_not_parse_is_corrupt(run: RunDir) -> None:
    run.write_record(selection_record())
    path = run.stage_dir(Stage.SELECT) / "record.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ArtifactCorruptError, match="does not parse"):
        run.read_record(SelectionManifest, Stage.SELECT)


def test_progress(run: RunDir) -> None:
    assert run.read_progress() is None
    run.progress(Stage.TRAIN, step=1, total_steps=3, eta_s=7.6)
    found = run.read_progress()
    assert found is not None
    assert (found.stage, found.percent, found.step, found.total_steps, found.eta_s) == ("train", 33.3, 1, 3, 8)
    run.progress(Stage.TRAIN, step=0, total_steps=0)
    found = run.read_progress()
    assert found is not None
    assert found.percent == 0.0


def test_events_are_read_from_an_index_and_a_torn_line_is_left(run: RunDir) -> None:
    assert run.read_events() == []
    for name in ("one", "two\nlines", "three \u2028"):
        run.event("note", name, stage=Stage.SELECT)
    with (run.root / "events.jsonl").open("a") as stream:
        stream.write('{"at": 1, "lev')
    assert [event["message"] for event in run.read_events()] == ["one", "two\nlines", "three \u2028"]
    assert [event["message"] for event in run.read_events(2)] == ["three \u2028"]


def test_results(run: RunDir) -> None:
    assert run.read_result() is None
    run.fail(DatasetInvalidError("no rows", param="dataset.source"))
    result = run.read_result()
    assert isinstance(result, Failed)
    assert result.error == Failure(code="dataset_invalid", message="no rows", param="dataset.source", retryable=False)
    run.clear_result()
    assert run.read_result() is None
    run.succeed("math@1")
    result = run.read_result()
    assert isinstance(result, Succeeded)
    assert result.pack == "math@1"
