"""The charts of a job, from its records."""

from __future__ import annotations

from collections.abc import Sequence

from api.jobs.job_records import JobRecords
from api.ui.charts import Chart, Series, histogram, line_chart
from eda_service.formatting import value_word
from eda_service.measured_rows import AcceptanceRow
from eda_service.records import ADAPTED, BASE, DISTANCE, CurvePoint, EvalReport, SampleScore

_NAMES = {ADAPTED: "adapted", BASE: "base"}


def charts_of(records: JobRecords) -> list[Chart]:
    """Draw every chart for which there are records, the result first."""
    found: list[Chart] = []
    if records.report is not None and records.report.acceptance:
        found.append(acceptance_chart(records.report))
    found += training_charts(records.curve)
    if records.generated is not None and records.generated.scores:
        threshold = None if records.selected is None else records.selected.threshold
        found.append(selection_chart(records.generated.scores, threshold, records.generated.value_name))
    return found


def acceptance_chart(report: EvalReport) -> Chart:
    """Draw acceptance by position in the draft, before and after."""
    temperatures = sorted({row.temperature for row in report.acceptance})
    return line_chart(
        "Acceptance by position",
        "How often the target accepts the k-th token of a draft. " + " ".join(map(_in_words, report.acceptance)),
        x_label="position k",
        y_label="accepted",
        series=[
            Series(
                f"{_NAMES.get(row.draft, row.draft)}, T={row.temperature:g}",
                f"s-{_NAMES.get(row.draft, 'other')}-{temperatures.index(row.temperature) % 2}",
                list(enumerate(row.acceptance_by_position, start=1)),
            )
            for row in report.acceptance
            if row.acceptance_by_position
        ],
        y_range=(0.0, 1.0),
    )


def training_charts(curve: Sequence[CurvePoint]) -> list[Chart]:
    """Draw loss, and acceptance simulated on held-out sequences, over the steps of training."""
    losses = [(point.step, point.loss) for point in curve if point.simulated_acceptance_length is None]
    lengths = [
        (point.step, point.simulated_acceptance_length)
        for point in curve
        if point.simulated_acceptance_length is not None
    ]
    found = []
    if losses:
        found.append(
            line_chart(
                "Training loss",
                f"From {losses[0][1]:.2f} at step {losses[0][0]} to {losses[-1][1]:.2f} at step {losses[-1][0]}.",
                x_label="step",
                y_label="loss",
                series=[Series("loss", "s-adapted-0", losses)],
            )
        )
    if lengths:
        step, best = max(lengths, key=lambda point: point[1])
        found.append(
            line_chart(
                "Simulated acceptance length",
                f"On held-out sequences: {lengths[0][1]:.2f} before training, at best {best:.2f}, at step {step}.",
                x_label="step",
                y_label="tokens per round",
                series=[Series("acceptance length", "s-adapted-1", lengths)],
            )
        )
    return found


def selection_chart(scores: Sequence[SampleScore], threshold: float | None, value_name: str = DISTANCE) -> Chart:
    """Draw the values of the self-generated samples, with the cut of the selection."""
    is_distance = value_name == DISTANCE
    of_what = "Distance of {} self-generated samples from general text (Eq. 14)"
    of_what = of_what if is_distance else f"{value_word(value_name).capitalize()} of {{}} self-generated samples"
    values = [score.sample_value for score in scores]
    told = "no cut" if threshold is None else f"{sum(value >= threshold for value in values)} from {threshold:.4g} on"
    return histogram(
        "Sample values",
        f"{of_what.format(len(values))}: {told}.",
        x_label="sample value" if is_distance else value_word(value_name),
        y_label="samples",
        values=values,
        cut=threshold,
        cut_label="" if threshold is None else f"kept from {threshold:.4g}",
    )


def _in_words(row: AcceptanceRow) -> str:
    name = _NAMES.get(row.draft, row.draft).capitalize()
    return f"{name} draft at T={row.temperature:g}: length {row.acceptance_length:.2f}."
