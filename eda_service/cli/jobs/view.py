"""How jobs look in a terminal: a table, and a live bar per stage. Everything goes to standard error except tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from eda_service.cli.console import err
from eda_service.client import Adaptation, Client, Estimate, JobEvent
from eda_service.client.answers.answers import StageNeed, TargetSplit
from eda_service.formatting import duration, percent, rate, size
from eda_service.records import STAGES

_COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "cancelling": "yellow", "running": "cyan"}
_SMOOTHING = 0.3  # weight of the newest rate


def coloured(status: str) -> str:
    """A status with its colour, as rich markup."""
    colour = _COLOURS.get(status)
    return f"[{colour}]{status}[/]" if colour else status


def columns(rows: Sequence[Sequence[str]]) -> str:
    """One line per row, in columns as wide as their content: ids are there to be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def jobs_table(jobs: Iterable[Adaptation]) -> str:
    """One line per job."""
    jobs = list(jobs)
    has_ended = any(job.outcome is not None for job in jobs)
    measured = ("ACCEPTANCE", "TOKENS/S", "SPEEDUP") if has_ended else ()
    rows: list[tuple[str, ...]] = [("ID", "STATUS", "STAGE", "DONE", "ATTEMPT", "AGE", "SERVED AS", "MODEL", *measured)]
    for job in jobs:
        done = percent(job.progress.percent / 100, 0) if job.progress and not job.is_terminal else ""
        target = f"{job.model} + {job.adapter}" if job.adapter else job.model
        attempt, age = f"{job.attempt}/{job.max_attempts}", duration(time.time() - job.created_at)
        numbers = _before_and_after(job) if has_ended else ()
        rows.append((job.id, job.status, job.stage or "", done, attempt, age, job.served_name, target, *numbers))
    return columns(rows)


def _before_and_after(job: Adaptation) -> tuple[str, str, str]:
    """Acceptance, tokens per second and speedup of the base draft and the adapted one."""

    def pair(before: float | None, after: float | None, form: str) -> str:
        return "" if before is None or after is None else f"{before:{form}} > {after:{form}}"

    if job.outcome is None:
        return "", "", ""
    before, after = job.outcome.before, job.outcome.after
    return (
        pair(before.acceptance_length, after.acceptance_length, ".2f"),
        pair(before.tokens_per_s, after.tokens_per_s, ".1f"),
        pair(before.speedup, after.speedup, ".2f"),
    )


def time_text(job: Adaptation) -> str:
    """How long a job has run, and how long it still takes; empty before it was started."""
    if job.elapsed_s is None:
        return ""
    parts = [f"{'took' if job.is_terminal else 'elapsed'} {duration(job.elapsed_s)}"]
    if job.remaining is not None and not job.is_terminal:
        parts.append(
            f"{range_text(job.remaining.low_s, job.remaining.high_s)} left, {rests_on(job.remaining.num_jobs)}"
        )
    return ", ".join(parts)


def watch(client: Client, job_id: str) -> Adaptation:
    """Show a job until it is terminal; live bars in a terminal, one line per change elsewhere."""
    return _watch_live(client, job_id) if err.is_terminal else _watch_lines(client, job_id)


def event_line(event: JobEvent) -> str:
    """One event as one line."""
    at = time.strftime("%H:%M:%S", time.localtime(event.created_at))
    stage = f"{event.stage}: " if event.stage else ""
    return f"{at} {event.level:<7} {event.type:<18} {stage}{event.message}"


def estimate_text(estimate: Estimate) -> str:
    """What a job would need, in a few lines."""
    parts = [f"{name} {duration(value)}" for name, value in estimate.seconds.items() if name != "total" and value]
    need, free = size(estimate.disk_bytes), estimate.free_disk_bytes
    lines = [
        *([needs_table(estimate.stages), ""] if estimate.stages else []),
        *([f"target  {split_text(estimate.target, estimate.device)}"] if estimate.target else []),
        f"disk    {need}{'' if free is None else f' of {size(free)} free'}: "
        f"{'fits' if estimate.fits else 'does not fit'}",
        f"work    {estimate.num_samples:,} samples, {estimate.num_train_steps:,} training steps of "
        f"{estimate.trainable_parameters:,} parameters",
        f"time    {_time_text(estimate)}" + (f" ({', '.join(parts)})" if parts else ""),
        *([f"measure {estimate.measured_on}"] if estimate.measured_on else []),
        *(f"warning: {warning}" for warning in estimate.warnings),
    ]
    return "\n".join(lines)


def _time_text(estimate: Estimate) -> str:
    """How long the whole takes: a range, and what it rests on."""
    total, expected = estimate.seconds.get("total"), estimate.expected
    if expected is None:
        return "unknown" if total is None else f"about {duration(total)}"
    return (
        f"{range_text(expected.low, expected.high)}, about {duration(expected.median)}, {rests_on(expected.num_jobs)}"
    )


def range_text(low: float, high: float) -> str:
    """Seconds as `2m00s to 5m10s`."""
    return f"{duration(low)} to {duration(high)}"


def rests_on(num_jobs: int) -> str:
    """What an expected time rests on."""
    if num_jobs == 0:
        return "before any job has ended here"
    return "from the one job that has ended here" if num_jobs == 1 else f"from the last {num_jobs} jobs here"


def needs_table(stages: Iterable[StageNeed]) -> str:
    """What each stage asks Ray for, and what it takes: one line per stage."""
    stages = list(stages)
    with_host = any(stage.host_memory_bytes for stage in stages)
    rows = [("STAGE", "PLACED", "WORKERS", "EACH", "MEMORY", *(["HOST"] if with_host else []), "DISK", "TIME")]
    for stage in stages:
        over = f" on {stage.nodes} nodes" if stage.nodes > 1 else ""
        gpus = f", {stage.gpus} GPU{over}" if stage.gpus else ""
        threads = f"{stage.threads} thread{'s' if stage.threads > 1 else ''}"
        each = f"{stage.cpus:g} CPU{gpus}, {threads}" if stage.workers else ""
        workers = str(stage.workers) if stage.workers else ""
        sizes = (stage.memory_bytes, *([stage.host_memory_bytes] if with_host else []), stage.disk_bytes)
        needs = [size(number) if number else "" for number in sizes]
        rows.append((stage.stage, stage.placement, workers, each, *needs, duration(stage.seconds)))
    return columns(rows)


def split_text(target: TargetSplit, device: str) -> str:
    """How vLLM parts a target, in one line."""
    devices = f"{target.devices} devices" if target.devices > 1 else "one device"
    over = f" on {target.nodes} nodes" if target.nodes > 1 else ""
    room = "" if target.room_bytes is None else f", of {size(target.room_bytes)} that vLLM may take"
    return (
        f"vLLM over {devices}{over}: {size(target.weight_bytes)} of weights and "
        f"{size(target.cache_bytes)} of keys and values on each {device}{room}"
    )


def why_kept(client: Client, job_id: str) -> str | None:
    """Why a finished job's pack was not deployed; None when it was."""
    return next((event.message for event in client.events(job_id) if event.type == "deployment_kept"), None)


def describe_end(client: Client, job: Adaptation) -> str:
    """One line about a terminal job, as rich markup: what became of its pack is in its events."""
    line = f"{job.id} {coloured(job.status)}"
    if job.result_pack:
        kept = why_kept(client, job.id)
        served = f"served as {job.served_name}" if kept is None else f"not deployed: {kept}"
        measured = f" (measured on {job.measured_on})" if job.measured_on else ""
        line += f": published {job.result_pack}{measured}, {served}".replace("[", r"\[")
    if job.error:
        line += f": {job.error.code}: " + job.error.message.replace("[", r"\[")
    return line


class _Rate:
    """Steps per second of the current stage, smoothed."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._step, self._at, self.per_s = 0, 0.0, 0.0

    def update(self, job: Adaptation, now: float) -> str:
        """Take one look; returns the rate as text, empty while unknown."""
        if job.progress is None:
            return ""
        step = job.progress.step
        if job.stage != self._stage or step < self._step:
            self._stage, self._step, self._at, self.per_s = job.stage, step, now, 0.0
        elif step > self._step:
            fresh = (step - self._step) / max(now - self._at, 1e-3)
            self.per_s = fresh if not self.per_s else (1 - _SMOOTHING) * self.per_s + _SMOOTHING * fresh
            self._step, self._at = step, now
        return rate(self.per_s, "") if self.per_s else ""


def _watch_live(client: Client, job_id: str) -> Adaptation:
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=32),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
    )
    speed = _Rate()
    with Progress(*columns, console=err) as progress:
        tasks = {each.value: progress.add_task(each.value, total=100.0, note="") for each in STAGES}
        whole = progress.add_task("job", total=100.0, visible=False, note="")
        began: dict[str, float] = {}
        for job in client.watch(job_id):
            _draw(progress, tasks, began, job, speed)
            progress.update(whole, visible=job.elapsed_s is not None, completed=_share(job), note=time_text(job))
    err.print(describe_end(client, job))
    return job


def _share(job: Adaptation) -> float:
    """Percent of the whole job, by the time that it has taken and the middle of what is left."""
    if job.remaining is None or job.elapsed_s is None:
        return 100.0 if job.status == "succeeded" else 0.0
    left = (job.remaining.low_s + job.remaining.high_s) / 2
    return 100.0 * job.elapsed_s / max(1.0, job.elapsed_s + left)


def _draw(progress: Progress, tasks: dict[str, TaskID], began: dict[str, float], job: Adaptation, speed: _Rate) -> None:
    now = time.monotonic()
    names = list(tasks)
    current = names.index(job.stage) if job.stage in tasks else -1
    for place, name in enumerate(names):
        if place < current or job.status == "succeeded":
            spent = duration(now - began.pop(name)) if name in began else None
            note = {} if spent is None else {"note": spent}
            progress.update(tasks[name], completed=100.0, **note)  # type: ignore[arg-type]  # fields are untyped
        elif place == current:
            began.setdefault(name, now)
            progress.update(
                tasks[name], completed=job.progress.percent if job.progress else 0.0, note=_note(job, speed)
            )
        else:
            note = {"note": job.status if place == 0 and current < 0 else ""}
            progress.update(tasks[name], completed=0.0, **note)  # type: ignore[arg-type]


def _note(job: Adaptation, speed: _Rate) -> str:
    if job.progress is None:
        return job.status
    parts = [f"{job.progress.step}/{job.progress.total_steps}", speed.update(job, time.monotonic())]
    if job.progress.eta_s is not None and not job.is_terminal:
        parts.append(f"{duration(job.progress.eta_s)} left")
    if job.attempt > 1:
        parts.append(f"attempt {job.attempt}")
    return "  ".join(part for part in parts if part)


def _watch_lines(client: Client, job_id: str) -> Adaptation:
    last: tuple[str, str | None, int, int] | None = None
    for job in client.watch(job_id):
        tenth = int(job.progress.percent // 10) if job.progress else 0
        state = (job.status, job.stage, job.attempt, tenth)
        if state != last and not job.is_terminal:
            done = percent(job.progress.percent / 100, 0) if job.progress else ""
            at = time_text(job) if job.status == "running" else ""
            err.print("  ".join(each for each in (f"{job.status} {job.stage or ''} {done}".rstrip(), at) if each))
        last = state
    err.print(describe_end(client, job))
    return job
