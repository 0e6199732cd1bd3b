"""How imports, measurements and exports look in a terminal: their jobs, drafts with their checks, results."""

from __future__ import annotations

import time
from collections.abc import Iterable

from eda_service import draft_check
from eda_service.cli.console import Exit, err
from eda_service.cli.jobs.view import coloured, columns
from eda_service.client import ApiError, Client, Draft, DraftCheck, Job
from eda_service.client.answers.task_answers import Acceptance, Measured
from eda_service.formatting import duration, percent

_PREFIXES = ("import_", "measure_", "export_")
_ADAPTATION = "adapt_"


def is_task(client: Client, job_id: str) -> bool:
    """Whether a job is an import, a measurement or an export, which the service keeps beside adaptations.

    The ids that the service gives say so; of one that somebody chose for a job started by hand, the service is asked.
    """
    if job_id.startswith((*_PREFIXES, _ADAPTATION)):
        return not job_id.startswith(_ADAPTATION)
    try:
        return client.jobs.get(job_id).kind != "adapt"
    except ApiError as error:
        if error.status != 404:
            raise
        return False  # what is asked for next says that there is none


def jobs_table(jobs: Iterable[Job]) -> str:
    """One line per job."""
    rows = [("ID", "KIND", "STATUS", "STAGE", "ATTEMPT", "AGE", "RESULT", "MODEL")]
    for job in jobs:
        attempt, age = f"{job.attempt}/{job.max_attempts}", duration(time.time() - job.created_at)
        rows.append((job.id, job.kind, job.status, job.stage or "", attempt, age, job.result or "", job.model))
    return columns(rows)


def describe_end(job: Job) -> str:
    """One line about a terminal job, as rich markup."""
    line = f"{job.id} {coloured(job.status)}"
    if job.result and job.result != job.id:
        line += f": registered {job.result}".replace("[", r"\[")
    if job.error:
        line += f": {job.error.code}: " + job.error.message.replace("[", r"\[")
    return line


def watch(client: Client, job_id: str) -> Job:
    """Show a job until it is terminal: one line per change on standard error, and what it told."""
    last: tuple[str, str | None, int] | None = None
    after: str | None = None
    for job in client.jobs.watch(job_id):
        for event in client.jobs.events(job_id, after=after):
            after = event.id
            if event.level != "info" and not job.error:
                err.print(f"{event.level}: {event.message}", markup=False)
        state = (job.status, job.stage, job.attempt)
        if state != last and not job.is_terminal:
            err.print(f"{job.status} {job.stage or ''}".rstrip())
        last = state
    err.print(describe_end(job))
    return job


def exit_code(job: Job) -> Exit:
    """The exit code that a terminal job leaves with."""
    return Exit.OK if job.status == "succeeded" else Exit.JOB_FAILED


def drafts_table(drafts: Iterable[Draft]) -> str:
    """One line per draft."""
    rows = [("DRAFT", "KIND", "DIALECT", "DECLARED", "BEST", "FOR", "SOURCE")]
    for each in drafts:
        source = each.source or ("shipped" if each.shipped else "trained here")
        rows.append(
            (
                each.id,
                each.kind or "?",
                each.dialect or "",
                _length(each.acceptance_length),
                _length(each.best_acceptance_length) + (" *" if each.best_reading else ""),
                each.model or "?",
                source,
            )
        )
    return columns(rows)


def draft_text(draft: Draft) -> str:
    """Everything about one draft."""
    lines = [drafts_table([draft])]
    lines += [f"assumed: {each}" for each in draft.assumed]
    lines += [f"set by hand: {name}={value}" for name, value in draft.overrides.items()]
    lines += [f"pack: {each}" for each in draft.packs]
    if draft.check is not None:
        lines.append(check_text(draft.check))
    return "\n".join(lines)


def check_text(check: DraftCheck) -> str:
    """The readings of a check, by position."""
    if not check.readings:
        return f"not checked: {check.skipped}"
    judged = draft_check.DraftCheck.model_validate(check.model_dump())
    best = None if judged.best is None else judged.best.overrides
    width = max(len(reading.agreement) for reading in check.readings)
    rows = [("READING", "ACCEPTANCE", *(f"POS {place + 1}" for place in range(width)))]
    for reading in check.readings:
        shares = [percent(share) for share in reading.agreement]
        name = reading.name + (" (best)" if reading.overrides == best and len(check.readings) > 1 else "")
        rows.append((name, _length(reading.acceptance_length), *shares, *[""] * (width - len(shares))))
    lines = [f"check over {check.num_prompts} answers of the target, {check.num_positions} places", columns(rows)]
    return "\n".join([*lines, *judged.sentences])


def measured_text(found: Measured) -> str:
    """The result of a measurement."""
    if found.check is not None:
        return check_text(found.check)
    rows: list[tuple[str, ...]] = [("TARGET", "T", "DRAFT", "ACCEPTANCE", "RATE", "BY POSITION")]
    rows += [_row("this", row) for row in found.acceptance] + [_row("base", row) for row in found.base_acceptance]
    lines = [f"over {found.num_prompts} prompts", columns(rows)]
    if found.speed:
        speeds = [("MODE", "T", "TOKENS/S", "SPEEDUP")]
        speeds += [
            (row.mode, f"{row.temperature:g}", f"{row.tokens_per_s:.1f}", f"{row.speedup_over_autoregressive:.2f}")
            for row in found.speed
        ]
        lines.append(columns(speeds))
    if found.coverage is not None:
        lines.append(f"coverage {percent(found.coverage)}: so many tokens of the answers the draft can propose")
    return "\n".join([*lines, *([found.advice] if found.advice else [])])


def _row(target: str, row: Acceptance) -> tuple[str, ...]:
    shares = " ".join(percent(share, 0) for share in row.acceptance_by_position)
    return (
        target,
        f"{row.temperature:g}",
        row.draft,
        _length(row.acceptance_length),
        percent(row.acceptance_rate),
        shares,
    )


def _length(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
