"""The project's goals compared with the cells: one row per goal, met or not."""

from __future__ import annotations

from statistics import fmean
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
    """Make the rows (name, goal, measured with the first seed, word, mean and spread over the seeds) of every goal."""
    rows = []
    for goals, word in ((AT_LEAST, "at least"), (AT_MOST, "at most")):
        for name, limit in goals.items():
            value = summary.get(name)
            is_met = value is not None and (value >= limit if goals is AT_LEAST else value <= limit)
            found = ["-", "cell not run yet"] if value is None else [f"{value:.3f}", "met" if is_met else "missed"]
            rows.append([f"`{name}`", f"{word} {limit:g}", *found, _over_seeds(summary.get(f"{name}.seeds", []))])
    return rows


def _over_seeds(ratios: list[float]) -> str:
    if len(ratios) < 2:
        return "-"
    return f"{fmean(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} seeds)"
