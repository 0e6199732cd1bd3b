"""MLflow and W&B themselves, on this machine: `make test-tracking`, which installs both extras."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from wandb.proto import wandb_internal_pb2

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.track import TrackConfig
from eda_service.storage.runs.run import RunDir
from eda_service.training.tracking import check_installed, open_trackers

JOB = "adapt_01M8"
_HEADER, _BLOCK, _FULL, _LAST = 7, 32_768, 1, 4


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    return RunDir.of_job(JOB, home)


def config(*to: str) -> AdaptConfig:
    track = TrackConfig.model_validate({"to": list(to), "project": "drafts"})
    return AdaptConfig(target=TargetSpec(model="org/model"), served_name="support", track=track)


def log_in_two_parts(run: RunDir, settings: AdaptConfig) -> None:
    """As training, a group that is restarted one step back, and the evaluation do."""
    check_installed(settings.track)
    for values in ({"loss/total": 2.0}, {"loss/total": 1.0}), ({"loss/total": 1.5}, {"adapted_draft/length": 2.5}):
        with open_trackers(run, settings) as report:
            for step, each in enumerate(values, start=2):
                report(step, each)
    assert run.read_events() == []


def test_mlflow_has_one_run_of_the_job_in_its_database(run: RunDir, home: Path) -> None:
    log_in_two_parts(run, config("mlflow"))
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("drafts")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "support"
    assert found.info.status == "FINISHED"
    assert found.data.tags["eda.job_id"] == JOB
    assert found.data.params["target.model"] == "org/model"
    assert found.data.params["train.loss.cross_entropy_weight"] == "0.1"
    history = client.get_metric_history(found.info.run_id, "loss/total")
    assert [(each.step, each.value) for each in history] == [(2, 2.0), (3, 1.0), (2, 1.5)]
    assert found.data.metrics["adapted_draft/length"] == 2.5


def test_mlflow_goes_where_the_environment_says(run: RunDir, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"sqlite:///{home / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    log_in_two_parts(run, config("mlflow"))
    assert MlflowClient(address).get_experiment_by_name("drafts") is not None
    assert not (home / "mlflow.db").exists()


def test_a_server_that_is_not_there_does_not_stop_the_job(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with open_trackers(run, config("mlflow")) as report:
        report(1, {"loss/total": 1.0})
    (event,) = run.read_events()
    assert event["type"] == "tracking_failed"
    assert "127.0.0.1" in event["message"]


def chunks(data: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: LevelDB's log format after a header of seven bytes."""
    place, parts = _HEADER, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:  # the end of a block is filled up
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + _HEADER])
        parts += data[place + _HEADER : place + _HEADER + size]
        place += _HEADER + size
        if kind in {_FULL, _LAST}:
            yield parts
            parts = b""


def records(folder: Path) -> list[Any]:
    """Every record of the offline runs in a folder."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in chunks(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found.append(record)
    return found


def test_wandb_writes_offline_runs_of_the_job(run: RunDir) -> None:
    log_in_two_parts(run, config("wandb"))
    deadline = time.monotonic() + 20  # W&B's own process writes the last records, and may do so after `finish`
    found = records(run.root / "train")
    while [each.WhichOneof("record_type") for each in found].count("exit") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        found = records(run.root / "train")
    runs = [each.run for each in found if each.WhichOneof("record_type") == "run"]
    assert {(each.run_id, each.project, each.display_name) for each in runs} == {(JOB, "drafts", "support")}
    rows = [
        {".".join(item.nested_key) or item.key: item.value_json for item in each.history.item}
        for each in found
        if each.WhichOneof("record_type") == "history"
    ]
    assert [(row["step"], row["loss/total"]) for row in rows if "loss/total" in row] == [
        ("2", "2"),
        ("3", "1"),
        ("2", "1.5"),
    ]
    assert [row["adapted_draft/length"] for row in rows if "adapted_draft/length" in row] == ["2.5"]
