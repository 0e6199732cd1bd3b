"""Plots of a job, from its records: acceptance before and after, and the training curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from eda_service.formatting import value_word
from eda_service.measured_rows import AcceptanceRow
from eda_service.records import DISTANCE, CurvePoint, SampleScore


def plot_acceptance(rows: Sequence[AcceptanceRow], path: Path) -> None:
    """Plot acceptance by position, one line per draft and temperature."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        positions = range(1, len(row.acceptance_by_position) + 1)
        label = f"{row.draft.replace('_', ' ')}, T={row.temperature:g} (length {row.acceptance_length:.2f})"
        style = "-o" if row.draft == "adapted_draft" else "--s"
        axes.plot(positions, row.acceptance_by_position, style, label=label)
    axes.set(xlabel="drafted position k", ylabel="P(position k accepted)", ylim=(0, 1), title="Acceptance by position")
    axes.set_xticks(list(range(1, 1 + max(len(row.acceptance_by_position) for row in rows))))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def plot_training(curve: Sequence[CurvePoint], path: Path) -> None:
    """Plot training loss and simulated acceptance length over steps."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    losses = [point for point in curve if point.simulated_acceptance_length is None]
    axes.plot([p.step for p in losses], [p.loss for p in losses], color="tab:blue", label="loss")
    axes.set(xlabel="optimizer step", ylabel="loss", title="Training")
    acceptance = [point for point in curve if point.simulated_acceptance_length is not None]
    right = axes.twinx()
    values = [p.simulated_acceptance_length or 0.0 for p in acceptance]
    right.plot([p.step for p in acceptance], values, "-o", color="tab:orange", label="simulated acceptance length")
    right.set_ylabel("simulated acceptance length (held out)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)


def plot_selection(scores: Sequence[SampleScore], threshold: float | None, path: Path, value_name: str) -> None:
    """Plot a histogram of sample values with the threshold of the selection."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.hist([score.sample_value for score in scores], bins=40, color="tab:blue", alpha=0.8)
    if threshold is not None:
        axes.axvline(threshold, color="tab:red", label=f"cut at {threshold:.4g}")
        axes.legend()
    word = value_word(value_name)
    is_distance = value_name == DISTANCE
    axes.set(
        xlabel="sample value (Eq. 14)" if is_distance else word,
        ylabel="samples",
        title=f"Self-generated samples by {'distance from general text' if is_distance else word}",
    )
    figure.savefig(path, dpi=120)
