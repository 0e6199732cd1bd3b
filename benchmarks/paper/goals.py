"""What the project set itself, against what the cells say: one row a goal, met or not."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.reference import RATIOS

AT_LEAST = {
    **{f"{domain}.eda_selfgen_over_fullft_original": ratio for domain, ratio in RATIOS.items()},
    **{f"{domain}.best_over_eda_selfgen": 1.08 for domain in RATIOS},
    **{f"{domain}.best_over_fullft_selfgen": 1.0 for domain in RATIOS},
    "math.eda_selfgen_over_training_free": 1.5,
    "code.eda_selfgen_over_training_free": 1.3,
    "medical.eda_selfgen_over_training_free": 1.3,
    "math.pca50_over_all": 0.99,
    "math.pca50_over_random50": 1.03,
    "math.pca50_over_reversed50": 1.08,
    "math.eda_over_retrained_acceptance": 1.0,
}
AT_MOST = {"math.trainable_fraction": 0.276, "math.train_seconds_eda_over_retrain": 0.392}


def goal_rows(summary: dict[str, Any]) -> list[list[str]]:
    """(name, goal, measured, word) of every goal."""
    rows = []
    for name, limit in AT_LEAST.items():
        rows.append(_row(name, f"at least {limit:g}", summary.get(name), met=lambda value, low=limit: value >= low))
    for name, limit in AT_MOST.items():
        rows.append(_row(name, f"at most {limit:g}", summary.get(name), met=lambda value, high=limit: value <= high))
    return rows


def _row(name: str, goal: str, value: float | None, *, met: Any) -> list[str]:
    if value is None:
        return [f"`{name}`", goal, "-", "cell not run yet"]
    return [f"`{name}`", goal, f"{value:.3f}", "met" if met(value) else "missed"]
