"""What a stage's log says: its start and settings, training's points as they come, its end with the record's counts."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_files import record_of, write_records

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.pipeline.driver import stage_log
from eda_service.pipeline.select import SELECT
from eda_service.pipeline.stage import StageRunner, run_stage
from eda_service.pipeline.stage_log import CurveLog, EveryFew, counts_of, log_end
from eda_service.records import (
    CurvePoint,
    DraftCheckpoint,
    EvalReport,
    SelectionFields,
    SelectionManifest,
    SelfGenManifest,
    Stage,
    ValidateRecord,
)
from eda_service.storage.runs.curve import Curve
from eda_service.storage.runs.run import RunDir

CONFIG = AdaptConfig(target=TargetSpec(model="org/model"), base_draft="small@1", seed=7)


@pytest.fixture(autouse=True)
def at_info() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(before)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "runs" / "adapt_1")
    made.create(CONFIG, origin="ray")
    return made


def logged(run: RunDir, stage: Stage) -> list[str]:
    """Lines without time, level and name; each line begins with them."""
    lines = run.logs()[stage].read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO [\w.]+ (.*)", line) for line in lines]
    assert all(found), lines
    return [each[1] for each in found if each]


def fields(_run: RunDir, _config: AdaptConfig) -> SelectionFields:
    return SelectionFields(
        inputs={},
        num_candidates=40,
        num_selected=20,
        keep_fraction=0.5,
        threshold=1.25,
        selected_ids=("a",),
        num_answer_tokens=900,
        selection_seconds=0.25,
        selection_over_generation_time=0.5,
    )


def test_a_stage_says_its_start_its_settings_and_its_end(run: RunDir) -> None:
    runner = StageRunner(SelectionManifest, part=SELECT.part, run=fields)
    with stage_log(run.log_path(Stage.SELECT)):
        run_stage(run, CONFIG, runner)
    lines = logged(run, Stage.SELECT)
    assert lines[0] == "stage select of adapt_1 begins, attempt 1"
    assert f"  keep_fraction = {CONFIG.selection.keep_fraction}" in lines
    wanted = r"stage select took [\d.]+s: kept 20 of 40 samples, from value 1\.250 on; 900 answer tokens to train on"
    assert re.fullmatch(wanted, lines[-1])
    with stage_log(run.log_path(Stage.SELECT)):
        run_stage(run, CONFIG, runner)
    assert logged(run, Stage.SELECT)[-1] == "stage select of adapt_1 has a valid record and is not done again"


def point(step: int, loss: float, acceptance: float | None = None) -> CurvePoint:
    return CurvePoint(
        step=step,
        loss=loss,
        regression_loss=loss / 2,
        cross_entropy_loss=loss / 4,
        learning_rate=4e-5,
        simulated_acceptance_length=acceptance,
        seconds=step * 1.5,
    )


def test_training_is_told_as_its_curve_grows_and_is_taken_back(run: RunDir) -> None:
    curve = Curve(run.stage_dir(Stage.TRAIN))
    run.progress(Stage.TRAIN, step=2, total_steps=40)
    with stage_log(run.log_path(Stage.TRAIN)):
        told = CurveLog(run)
        curve.append(point(0, 0.0, acceptance=1.5))
        curve.append(point(2, 4.0))
        told.look()
        told.look()
        curve.append(point(4, 3.0))
        told.look()
        curve.keep(lambda each: each.step < 4)  # a restarted group takes step 4 again
        curve.append(point(4, 2.9))
        told.look()
    assert logged(run, Stage.TRAIN) == [
        "step 0 of 40: simulated acceptance 1.500 on held-out samples, after 0s",
        "step 2 of 40: loss 4.0000 (regression 2.0000, cross entropy 1.0000), learning rate 4.00e-05, after 3s",
        "step 4 of 40: loss 3.0000 (regression 1.5000, cross entropy 0.7500), learning rate 4.00e-05, after 6s",
        "training goes on from step 2",
        "step 4 of 40: loss 2.9000 (regression 1.4500, cross entropy 0.7250), learning rate 4.00e-05, after 6s",
    ]


def test_what_came_last_is_told_when_training_ends(run: RunDir) -> None:
    with stage_log(run.log_path(Stage.TRAIN)), CurveLog(run):
        Curve(run.stage_dir(Stage.TRAIN)).append(point(2, 4.0))
    assert [line.split(":")[0] for line in logged(run, Stage.TRAIN)] == ["step 2"]


def test_every_record_says_what_it_counted(run: RunDir) -> None:
    write_records(run, CONFIG)
    said = {
        kind.STAGE: counts_of(record)
        for kind in (ValidateRecord, SelfGenManifest, SelectionManifest, DraftCheckpoint, EvalReport)
        if (record := run.read_record(kind, kind.STAGE, verify=False)) is not None
    }
    assert len(said) == 5
    assert said[Stage.VALIDATE][0] == "320 prompts and 16 held out"
    assert said[Stage.GENERATE][:2] == [
        "320 samples, 0 prompts skipped",
        "30,000 answer tokens, 120 per second of decoding",
    ]
    assert f"{record_of(Stage.TRAIN)['num_steps']:,} steps" in said[Stage.TRAIN][0]
    lengths = {(row["draft"], row["temperature"]): row for row in record_of(Stage.EVALUATE)["acceptance"]}
    before, after = (lengths[name, 0.0]["acceptance_length"] for name in ("base_draft", "adapted_draft"))
    assert f"T=0: acceptance {before:.3f} before, {after:.3f} after" in said[Stage.EVALUATE]


def test_a_line_every_few_seconds_and_the_last(run: RunDir) -> None:
    with stage_log(run.log_path(Stage.GENERATE)):
        few = EveryFew(60.0)
        for number in range(1, 6):
            few.info("%d of 5", number, is_last=number == 5)
    assert logged(run, Stage.GENERATE) == ["1 of 5", "5 of 5"]


def test_a_long_stage_has_its_time_in_minutes(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    record = SELECT.record_of(CONFIG, fields(run, CONFIG), seconds=61.0)
    with caplog.at_level(logging.INFO):
        log_end(record)
    assert caplog.messages[-1].startswith("stage select took 1m01s: kept 20")
