"""Ranges from earlier jobs: medians and quartiles worked out by hand; one busy hour moves neither far."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig
from eda_service.planning import history
from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import CORE, DEVICES
from eda_service.planning.dry_run import expected_ranges
from eda_service.planning.history import (
    MAX_JOBS,
    History,
    add_to_history,
    history_path,
    read_history,
)
from eda_service.planning.plan import make_plan
from eda_service.planning.shapes import SHAPES, draft_of
from eda_service.planning.workload import expected_lengths
from eda_service.storage.runs.run import calibration_path

CONFIG = AdaptConfig.model_validate({"target": {"model": "m"}})
SHAPE = SHAPES["135m"]


def calibration(factor: float) -> Calibration:
    return Calibration(factor, factor, factor, 10.0 * factor, 20.0 * factor, 5.0 * factor)


def test_a_busy_job_moves_the_median_little(tmp_path: Path) -> None:
    for number, factor in enumerate((1.0, 1.1, 18.0, 0.9, 1.2)):
        add_to_history(tmp_path, CORE, f"adapt_{number}", calibration(factor))
    kept = read_history(tmp_path, CORE)
    assert kept.num_jobs == 5
    # sorted 0.9 1.0 1.1 1.2 18.0: the quartiles of five values are the second and the fourth
    assert kept.typical == calibration(1.1)
    assert kept.fast == calibration(1.0)
    assert kept.slow == calibration(1.2)
    assert kept.width == pytest.approx(1.2)


def _end_a_job(home: Path, number: int) -> None:
    """As in a process of its own, which is slow between reading the file and writing it."""
    read = history._read
    history._read = lambda path: (read(path), time.sleep(0.05))[0]
    add_to_history(home, CORE, f"adapt_{number}", calibration(1.0))


def test_jobs_that_end_together_are_all_remembered(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ending = [context.Process(target=_end_a_job, args=(tmp_path, number)) for number in range(6)]
    for each in ending:
        each.start()
    for each in ending:
        each.join(30.0)
    assert [each.exitcode for each in ending] == [0] * len(ending)
    assert read_history(tmp_path, CORE).num_jobs == len(ending)


def test_ranges_are_plans_of_the_quartiles_made_wider(tmp_path: Path) -> None:
    for number, factor in enumerate((1.0, 2.0, 3.0, 4.0, 5.0)):
        add_to_history(tmp_path, CORE, f"adapt_{number}", calibration(factor))
    draft = draft_of(SHAPE)
    ranges, num_jobs = expected_ranges(CONFIG, SHAPE, draft, tmp_path)

    def train_s(factor: float) -> float:
        return (
            make_plan(CONFIG, SHAPE, CORE, expected_lengths(CONFIG), calibration(factor), draft).stage("train").seconds
        )

    found = ranges["train"]
    assert num_jobs == 5
    assert (found.low, found.median, found.high) == pytest.approx((train_s(2) / 1.2, train_s(3), train_s(4) * 1.2))


def test_without_a_job_the_range_has_a_width_of_its_own(tmp_path: Path) -> None:
    ranges, num_jobs = expected_ranges(CONFIG, SHAPE, draft_of(SHAPE), tmp_path)
    assert num_jobs == 0
    for each in ranges.values():
        assert (each.low, each.high) == pytest.approx((each.median / 3, each.median * 3))
    assert History(DEVICES["h100"], ()).width == 5.0


def test_the_last_jobs_of_a_device_are_kept_and_the_same_job_once(tmp_path: Path) -> None:
    add_to_history(tmp_path, DEVICES["h100"], "adapt_gpu", calibration(7.0))
    for number in range(MAX_JOBS + 3):
        add_to_history(tmp_path, CORE, f"adapt_{number}", calibration(1.0 + number))
    add_to_history(tmp_path, CORE, f"adapt_{MAX_JOBS + 2}", calibration(99.0))
    kept = read_history(tmp_path, CORE)
    assert [each.train for each in kept.calibrations] == [1.0 + n for n in range(3, MAX_JOBS + 2)] + [99.0]
    assert read_history(tmp_path, DEVICES["h100"]).typical == calibration(7.0)


def test_what_a_version_before_left_is_one_job(tmp_path: Path) -> None:
    before = {"device": "core", "calibration": asdict(calibration(2.0))}
    calibration_path(tmp_path).write_text(json.dumps(before))
    kept = read_history(tmp_path, CORE)
    assert (kept.num_jobs, kept.typical, kept.width) == (1, calibration(2.0), 2.0)
    add_to_history(tmp_path, CORE, "adapt_1", calibration(4.0))
    assert read_history(tmp_path, CORE).typical == calibration(3.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1, null, {}]",
        '[{"device": "core", "calibration": {"train": -1}}]',
        '[{"device": "core", "calibration": {"train": null}}]',
    ],
)
def test_a_damaged_history_is_none(tmp_path: Path, text: str) -> None:
    history_path(tmp_path).write_text(text)
    assert read_history(tmp_path, CORE).num_jobs == 0
    add_to_history(tmp_path, CORE, "adapt_1", calibration(4.0))
    assert read_history(tmp_path, CORE).num_jobs == 1
