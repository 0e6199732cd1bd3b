"""Charts about serving: a deployment over the last hours, and a pack over its versions."""

from __future__ import annotations

from collections.abc import Sequence

from api.deployments.schemas import EvaluationBody
from api.metrics.history import WINDOW_S, Span
from api.ui.charts import Chart, Series, line_chart
from eda_service.storage.published.packs import PackVersion

DEPTH = 5
"""Number of drafted tokens for which acceptance is computed where no evaluation gives a number."""
_HOURS = round(WINDOW_S / 3600)


def lately(spans: Sequence[Span], evaluation: EvaluationBody | None) -> list[Chart]:
    """Draw tokens per second, and acceptance beside the served pack's published value, up to the newest reading."""
    if not spans:
        return []
    newest = spans[-1].ended_s
    speeds = [((newest - each.ended_s) / 60, each.tokens_per_s) for each in spans]
    found = [
        line_chart(
            "Tokens per second",
            f"In the last {_HOURS} hours: {speeds[-1][1]:.1f} at the end, at most {max(y for _, y in speeds):.1f}.",
            x_label="minutes ago",
            y_label="tokens/s",
            series=[Series("tokens/s", "s-adapted-0", speeds)],
            y_range=(0.0, max(1.0, *(y for _, y in speeds))),
            x_name=_ago,
        )
    ]
    lengths = [((newest - each.ended_s) / 60, each.acceptance_length) for each in spans if each.acceptance_length]
    if lengths:
        found.append(_acceptance(lengths, evaluation))
    return found


def _acceptance(lengths: list[tuple[float, float]], evaluation: EvaluationBody | None) -> Chart:
    low, high = lengths[0][0], lengths[-1][0]
    series = [Series("served", "s-adapted-0", lengths)]
    told = f"{lengths[-1][1]:.2f} at the end, as chains of {_depth(evaluation)} draft tokens."
    if evaluation is not None:
        published, base = evaluation.acceptance_length, evaluation.base_acceptance_length
        series += [
            Series("published", "s-adapted-1", [(low, published), (high, published)]),
            Series("base draft", "s-base-1", [(low, base), (high, base)]),
        ]
        told += f" Published with {published:.2f}, {base:.2f} with the base draft."
    tops = [y for each in series for _, y in each.points]
    return line_chart(
        "Acceptance length",
        told,
        x_label="minutes ago",
        y_label="tokens per round",
        series=series,
        y_range=(1.0, max(1.5, *tops)),
        x_name=_ago,
    )


def _depth(evaluation: EvaluationBody | None) -> int:
    return DEPTH if evaluation is None else evaluation.num_draft_tokens


def _ago(minutes: float) -> str:
    return "now" if minutes > -0.05 else f"{-minutes:.3g}"


def over_versions(versions: Sequence[PackVersion]) -> Chart | None:
    """Draw each version's measurements before and after; None if fewer than two versions have them."""
    measured = sorted(
        ((each.version, each.evaluation) for each in versions if each.evaluation is not None),
        key=lambda each: each[0],
    )
    if len(measured) < 2:
        return None
    best = max(measured, key=lambda each: each[1].acceptance_length)
    return line_chart(
        "Acceptance length over versions",
        f"Version {measured[-1][0]} measured {measured[-1][1].acceptance_length:.2f}, the best is version {best[0]} "
        f"with {best[1].acceptance_length:.2f}. Each was measured by its own job, perhaps on other prompts.",
        x_label="version",
        y_label="tokens per round",
        series=[
            Series("adapted", "s-adapted-0", [(version, each.acceptance_length) for version, each in measured]),
            Series("base draft", "s-base-0", [(version, each.base_acceptance_length) for version, each in measured]),
        ],
    )
