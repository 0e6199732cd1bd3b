"""What came of a job, in a terminal: two bars and a small table of before and after, its cost, and what to do next."""

from __future__ import annotations

import shlex

from eda_service.cli.console import err
from eda_service.cli.jobs.view import columns
from eda_service.client import Adaptation, Outcome
from eda_service.formatting import duration, size

_BAR_WIDTH = 32
_FULL, _EIGHTHS = "█", " ▏▎▍▌▋▊▉"


def outcome_text(outcome: Outcome) -> str:
    """Before and after, what was measured on, and what it cost."""
    before, after = outcome.before, outcome.after
    longer = after.acceptance_length / before.acceptance_length - 1
    rows = [
        ("", "BEFORE", "AFTER", ""),
        (
            "acceptance",
            f"{before.acceptance_length:.2f}",
            f"{after.acceptance_length:.2f}",
            f"{longer:+.0%}, tokens a round at T={outcome.temperature:g}",
        ),
    ]
    if before.tokens_per_s is not None and after.tokens_per_s is not None:
        at = "" if outcome.timed_temperature is None else f" at T={outcome.timed_temperature:g}"
        plain = outcome.plain_tokens_per_s
        without = "" if plain is None else f", {plain:.1f} without a draft"
        gain = f"{after.tokens_per_s / before.tokens_per_s - 1:+.0%}{without}{at}"
        rows.append(("tokens/s", f"{before.tokens_per_s:.1f}", f"{after.tokens_per_s:.1f}", gain))
    if before.speedup is not None and after.speedup is not None:
        rows.append(("speedup", f"{before.speedup:.2f}x", f"{after.speedup:.2f}x", "over decoding without a draft"))
    return "\n".join([columns(rows), f"measured on {outcome.measured_on}", f"cost {cost_text(outcome)}"])


def cost_text(outcome: Outcome) -> str:
    """Time, disk and hours of cores or GPUs."""
    cost = outcome.cost
    parts = [duration(cost.seconds)]
    if cost.disk_bytes is not None:
        parts.append(f"{size(cost.disk_bytes)} on disk")
    parts.append(f"{cost.core_hours:.2f} core hours")
    if cost.gpu_hours:
        parts.append(f"{cost.gpu_hours:.2f} GPU hours")
    return ", ".join(parts)


def bars_text(outcome: Outcome) -> str:
    """Two bars: tokens per second where they were measured, else acceptance."""
    before, after = outcome.before, outcome.after
    pair: tuple[float, float] | None = None
    if before.tokens_per_s is not None and after.tokens_per_s is not None:
        pair, unit = (before.tokens_per_s, after.tokens_per_s), "tokens/s"
    if pair is None:
        pair, unit = (before.acceptance_length, after.acceptance_length), "tokens a round"
    most = max(*pair, 1e-9)
    return "\n".join(
        f"{name:<7} {bar(value / most):<{_BAR_WIDTH}} {value:.{1 if unit == 'tokens/s' else 2}f} {unit}"
        for name, value in zip(("before", "after"), pair, strict=True)
    )


def bar(share: float) -> str:
    """A bar of a share of the full width, to an eighth of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * _BAR_WIDTH * 8)
    whole, rest = divmod(eighths, 8)
    return _FULL * whole + (_EIGHTHS[rest] if rest else "")


def next_steps(job: Adaptation, base_url: str) -> str:
    """The three commands that people want next: ask it, its report, its page."""
    return "\n".join(
        (
            f"ask it  eda chat {shlex.quote(job.served_name)}",
            f"report  eda report {job.id}",
            f"page    {base_url.rstrip('/')}/ui/jobs/{job.id}",
        )
    )


def show_outcome(job: Adaptation) -> None:
    """Before and after of a job that has ended well, on standard error."""
    if job.outcome is not None:
        err.print(outcome_text(job.outcome), markup=False)


def show_next(job: Adaptation, base_url: str) -> None:
    """What to do with it, on standard error."""
    if job.outcome is not None:
        err.print(next_steps(job, base_url), markup=False)
