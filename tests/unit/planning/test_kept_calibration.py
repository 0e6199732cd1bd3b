"""What an ended job leaves for the next dry run, and when it is of no use."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig
from eda_service.errors import InputError
from eda_service.planning import kept
from eda_service.planning.constants import CORE, DEVICES
from eda_service.planning.kept import device_of, keep_calibration, kept_calibration
from eda_service.planning.measured import Measured
from eda_service.planning.shapes import SHAPES, draft_of
from eda_service.planning.workload import Lengths
from eda_service.storage.runs.run import RunDir, calibration_path

CONFIG = AdaptConfig.model_validate({"target": {"model": "m"}})
MEASURED = Measured(
    config=CONFIG,
    shape=SHAPES["135m"],
    draft=draft_of(SHAPES["135m"]),
    lengths=Lengths(100.0, 80.0),
    seconds={"validate": 5.0, "generate": 90.0, "select": 1.0, "train": 200.0, "evaluate": 60.0},
    generate_work_s=60.0,
    train_work_s=180.0,
    disk_bytes=1,
)


def keep(home: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "measure", lambda root: measured)
    keep_calibration(RunDir.of_job("adapt_1", home))


def test_it_comes_back_for_the_same_device_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_calibration(tmp_path, CORE) is None
    keep(tmp_path, MEASURED, monkeypatch)
    found = kept_calibration(tmp_path, CORE)
    assert found == MEASURED.calibration(CORE)
    assert MEASURED.plan(CORE, found).stage("train").seconds == pytest.approx(200.0)
    assert kept_calibration(tmp_path, DEVICES["h100"]) is None


def test_factors_that_say_nothing_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed = replace(MEASURED, train_work_s=0.0)  # its last attempt found the training done
    keep(tmp_path, resumed, monkeypatch)
    assert not calibration_path(tmp_path).exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"device": "core", "calibration": {"generate": "fast"}}'])
def test_a_damaged_file_is_no_calibration(tmp_path: Path, text: str) -> None:
    calibration_path(tmp_path).write_text(text)
    assert kept_calibration(tmp_path, CORE) is None


def test_the_file_names_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, MEASURED, monkeypatch)
    found = json.loads(calibration_path(tmp_path).read_text())
    assert found == {"device": "core", "calibration": asdict(MEASURED.calibration(CORE))}


def test_a_job_is_planned_for_what_it_uses() -> None:
    on_gpu = AdaptConfig.model_validate({"target": {"model": "m"}, "train": {"use_gpu": True}})
    assert device_of(CONFIG) is device_of(CONFIG, "a100") is CORE
    assert (device_of(on_gpu).name, device_of(on_gpu, "a100").name) == ("h100", "a100")
    for name in ("h900", "core"):
        with pytest.raises(InputError, match="there are h100, h200, a100, l40s"):
            device_of(on_gpu, name)
