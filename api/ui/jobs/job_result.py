"""Result of a job, as its page and its report show it: the evaluation's numbers and the charts."""

from __future__ import annotations

from dataclasses import dataclass

from api.jobs.job_records import JobRecords
from api.ui.charts import Chart
from api.ui.jobs.job_charts import charts_of
from eda_service.config.job import AdaptConfig
from eda_service.measured_rows import SpeedRow
from eda_service.records import ADAPTED, BASE, EvalReport
from eda_service.storage.published.packs import measured_on


@dataclass(frozen=True)
class ResultRow:
    """One draft at one temperature: acceptance, and speed where it was timed."""

    temperature: float
    draft: str
    acceptance_length: float
    acceptance_rate: float | None
    tokens_per_s: float | None
    speedup: str


@dataclass(frozen=True)
class Result:
    """The result of a job, as far as there is one.

    Attributes:
        rows: Rows of the evaluation.
        headline: Acceptance length before and after, at the first temperature.
        depth: Draft tokens per round in the evaluation.
        measured_on: Held-out prompts that were used, in words.
        left_out: Packs that should have been measured beside the job's own but were not, with the reason.
    """

    rows: tuple[ResultRow, ...]
    headline: tuple[float, float] | None
    depth: int | None
    measured_on: str
    left_out: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]


def result_of(records: JobRecords, config: AdaptConfig) -> Result:
    """Return the result of a job that may still run."""
    report = records.report
    rivals = () if report is None else report.rivals
    return Result(
        rows=() if report is None else tuple(_rows(report)),
        headline=None if report is None else _headline(report),
        depth=None if report is None else report.num_draft_tokens,
        measured_on=(report.measured_on if report is not None else "") or measured_on(config),
        left_out=tuple((each.pack, each.left_out) for each in rivals if each.left_out is not None),
        charts=tuple(charts_of(records)),
    )


def _rows(report: EvalReport) -> list[ResultRow]:
    """List no draft, base draft, adapted draft and the packs measured beside it, for each temperature."""
    speeds = {(row.mode, row.temperature): row for row in report.speed}
    speeds |= {(row.mode, row.temperature): row for rival in report.rivals for row in rival.speed}
    names = {row.draft: f"{each.pack} ({', '.join(each.roles)})" for each in report.rivals for row in each.acceptance}
    accepted = [*report.acceptance, *(row for each in report.rivals for row in each.acceptance)]
    rows = []
    for temperature in sorted({row.temperature for row in report.acceptance}):
        plain = speeds.get(("autoregressive", temperature))
        if plain is not None:
            rows.append(ResultRow(temperature, "no draft", 1.0, None, plain.tokens_per_s, _speedup(plain)))
        for row in accepted:
            if row.temperature == temperature:
                timed = speeds.get((row.draft, temperature))
                rows.append(
                    ResultRow(
                        temperature,
                        names.get(row.draft, row.draft.replace("_", " ")),
                        row.acceptance_length,
                        row.acceptance_rate,
                        None if timed is None else timed.tokens_per_s,
                        "" if timed is None else _speedup(timed),
                    )
                )
    return rows


def _speedup(row: SpeedRow) -> str:
    return f"{row.speedup_over_autoregressive:.2f}× ({row.speedup_min:.2f}–{row.speedup_max:.2f})"


def _headline(report: EvalReport) -> tuple[float, float] | None:
    first = report.acceptance[0].temperature if report.acceptance else 0.0
    lengths = {row.draft: row.acceptance_length for row in report.acceptance if row.temperature == first}
    before, after = lengths.get(BASE), lengths.get(ADAPTED)
    return None if before is None or after is None else (before, after)
