"""What the demo says about a finished job, read from its records: the before/after table, the summary, the plots."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar

from rich.table import Table

from eda_service.cli.console import out
from eda_service.errors import ArtifactCorruptError
from eda_service.formatting import duration, percent
from eda_service.measured_rows import AcceptanceRow, SpeedRow
from eda_service.records import DraftCheckpoint, EvalReport, Record, SelectionManifest, SelfGenManifest, Stage
from eda_service.storage.runs.run import RunDir

RecordT = TypeVar("RecordT", bound=Record)
_BASE, _ADAPTED = "base_draft", "adapted_draft"


class Summary(TypedDict):
    """What `summary.json` holds."""

    acceptance_length_before: float
    acceptance_length_after: float
    speedup_over_autoregressive: float | None
    trainable_fraction: float
    keep_fraction: float
    selection_over_generation_time: float
    lossless: Mapping[str, object]
    machine: dict[str, str]
    seconds_adaptation: NotRequired[float]
    job_id: NotRequired[str]
    seconds_total: NotRequired[float]
    question: NotRequired[str]
    answer: NotRequired[str]
    answer_is_right: NotRequired[bool | None]
    num_asked: NotRequired[int]


def summarise(run: RunDir) -> Summary:
    """The numbers of `summary.json` that come from the job's records; temperature is the evaluation's first."""
    report = _record(run, EvalReport, Stage.EVALUATE)
    train = _record(run, DraftCheckpoint, Stage.TRAIN)
    selection = _record(run, SelectionManifest, Stage.SELECT)
    temperature = report.acceptance[0].temperature
    speed = _speed(report, _ADAPTED, temperature)
    return {
        "acceptance_length_before": _acceptance(report, _BASE, temperature).acceptance_length,
        "acceptance_length_after": _acceptance(report, _ADAPTED, temperature).acceptance_length,
        "speedup_over_autoregressive": None if speed is None else speed.speedup_over_autoregressive,
        "trainable_fraction": train.trainable_fraction,
        "keep_fraction": selection.num_selected / max(selection.num_candidates, 1),
        "selection_over_generation_time": selection.selection_over_generation_time,
        "lossless": report.lossless.model_dump(mode="json"),
        "machine": report.machine,
    }


def print_report(run: RunDir) -> None:
    """The before/after table, and what the stages cost."""
    report = _record(run, EvalReport, Stage.EVALUATE)
    table = Table("T", "draft", "acceptance length", "acceptance rate", "tokens/s", "speedup", title=_title(report))
    for plain in (row for row in report.speed if row.num_draft_tokens == 0):
        table.add_row(f"{plain.temperature:g}", "no draft", "1.00", "", f"{plain.tokens_per_s:.1f}", "1.00x")
    for row in report.acceptance:
        speed = _speed(report, row.draft, row.temperature)
        timed = ("", "") if speed is None else (f"{speed.tokens_per_s:.1f}", _spread(speed))
        length, rate = f"{row.acceptance_length:.2f}", percent(row.acceptance_rate, 0)
        table.add_row(f"{row.temperature:g}", row.draft.replace("_", " "), length, rate, *timed)
    out.print(table)
    generate = _record(run, SelfGenManifest, Stage.GENERATE)
    selection = _record(run, SelectionManifest, Stage.SELECT)
    train = _record(run, DraftCheckpoint, Stage.TRAIN)
    lossless, overhead = report.lossless, percent(selection.selection_over_generation_time)
    trained = f"{train.num_trainable:,} of {train.num_parameters:,} parameters ({percent(train.trainable_fraction, 0)})"
    out.print(
        f"generated {generate.num_samples} samples in {duration(generate.seconds)}; kept {selection.num_selected} of "
        f"{selection.num_candidates} (selection took {overhead} of generation); "
        f"trained {trained} in {duration(train.seconds)}; T=0 output identical on "
        f"{lossless.num_identical} of {lossless.num_prompts} prompts, {lossless.num_near_ties} near ties (largest gap "
        f"{lossless.largest_tie_gap:.2f} logits), {lossless.num_different} different",
    )


def copy_plots(run: RunDir, output: Path) -> list[Path]:
    """Copy the evaluation's plots beside the summary."""
    output.mkdir(parents=True, exist_ok=True)
    plots = sorted(run.stage_dir(Stage.EVALUATE).glob("*.png"))
    return [Path(shutil.copy2(plot, output / plot.name)) for plot in plots]


def _record(run: RunDir, kind: type[RecordT], stage: Stage) -> RecordT:
    record = run.read_record(kind, stage, verify=False)
    if record is None:
        raise ArtifactCorruptError(f"{run.root / stage.value} has no record although the job succeeded")
    return record


def _acceptance(report: EvalReport, draft: str, temperature: float) -> AcceptanceRow:
    for row in report.acceptance:
        if row.draft == draft and row.temperature == temperature:
            return row
    raise ArtifactCorruptError(f"the evaluation has no row for {draft} at temperature {temperature:g}")


def _title(report: EvalReport) -> str:
    """Acceptance is quoted at full length; where time counts, depth adapts."""
    on = f" on {report.measured_on}" if report.measured_on else ""
    return f"before and after{on} (K={report.num_draft_tokens}; the speedup with adaptive depth, as served)"


def _spread(speed: SpeedRow) -> str:
    """Median ratio to autoregressive decoding, with the smallest and largest of the repeats."""
    return f"{speed.speedup_over_autoregressive:.2f}x ({speed.speedup_min:.2f}-{speed.speedup_max:.2f})"


def _speed(report: EvalReport, mode: str, temperature: float) -> SpeedRow | None:
    return next((row for row in report.speed if row.mode == mode and row.temperature == temperature), None)
