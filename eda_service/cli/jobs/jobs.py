"""`eda jobs ...`: look at jobs, change them, and stay with one until it ends."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import typer

from eda_service.cli.arguments import JobArgument, LastOption, as_pairs, find_job
from eda_service.cli.console import (
    Commands,
    Exit,
    JsonOption,
    UrlOption,
    connect,
    detachable,
    err,
    example,
    out,
    print_json,
)
from eda_service.cli.jobs import follow, outcome, samples, task_view, view
from eda_service.client import Adaptation, ApiError, Client, Job
from eda_service.errors import EdaError, InputError
from eda_service.formatting import size

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Look at jobs, cancel and retry them: adaptations, and imports, measurements and exports by their ids.",
    epilog=example("eda jobs ls"),
)

_MAX_PRIORITY = 100
_BEGINS_TO_LOAD_S, _READY_TIMEOUT_S = 10.0, 600.0

KindName = Literal["import_draft", "measure", "export"]
StatusName = Literal["queued", "running", "succeeded", "failed", "cancelling", "cancelled"]


@app.command("ls", epilog=example("eda jobs ls --status failed --metadata team=math"))
def ls(
    status: Annotated[StatusName | None, typer.Option(help="Only jobs in this status.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="Only jobs with this pair; repeatable.")
    ] = None,
    kind: Annotated[
        KindName | None, typer.Option(help="Imports, measurements or exports instead of adaptations.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most this many.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="Every job, whatever --limit says.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    metadata = as_pairs(labels or [], "--metadata")
    if kind is not None:
        _ls_tasks(url, kind, status, metadata, None if everything else limit, as_json)
        return
    with connect(url) as client:
        if everything:
            jobs, has_more = list(client.iterate(status=status, metadata=metadata)), False
        else:
            page = client.page(limit=limit, status=status, metadata=metadata)
            jobs, has_more = list(page), page.has_more
    if as_json:
        print_json([job.model_dump(mode="json") for job in jobs])
        return
    typer.echo(view.jobs_table(jobs) if jobs else "no jobs")
    if has_more:
        err.print("there are more; --all lists them")


@app.command(epilog=example("eda jobs show adapt_01KD --json"))
def show(
    given: JobArgument = None, last: LastOption = False, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Show one job."""
    with connect(url) as client:
        job_id = find_job(client, given, last)
        if task_view.is_task(client, job_id):
            task = client.jobs.get(job_id)
            print_json(task) if as_json else _show(task_view.jobs_table([task]), task.waits_for)
            return
        job = client.get(job_id)
        if as_json:
            print_json(job)
            return
        _show(view.jobs_table([job]), job.waits_for)
        if (spent := view.time_text(job)) != "":
            typer.echo(spent)
        if job.is_terminal:
            out.print(view.describe_end(client, job))
        if job.outcome is not None:
            typer.echo(outcome.outcome_text(job.outcome))
            typer.echo(outcome.next_steps(job, client.base_url))


def _show(table: str, waits_for: str | None) -> None:
    """A job's line, and why it does not start."""
    typer.echo(table if waits_for is None else f"{table}\nwaits: {waits_for}")


@app.command(epilog=example("eda jobs watch adapt_01KD"))
def watch(
    given: JobArgument = None, last: LastOption = False, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Show a job's progress until it ends and its pack answers; exit code 1 where it does not. Ctrl-C detaches, the
    job goes on.
    """
    with connect(url) as client:
        job_id = find_job(client, given, last)
        with detachable(job_id, url):
            _watch(client, job_id, as_json)


def _watch(client: Client, job_id: str, as_json: bool) -> None:
    if task_view.is_task(client, job_id):
        finish(task_view.watch(client, job_id), as_json)
        return
    job = view.watch(client, job_id)
    outcome.show_outcome(job)
    finish(job, as_json)
    require_served(client, job)
    outcome.show_next(job, client.base_url)


@app.command(epilog=example("eda jobs wait adapt_01KD --timeout 600"))
def wait(
    given: JobArgument = None,
    last: LastOption = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", min=0.0, metavar="SECONDS", help="Give up then, with exit code 1.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait without a word until a job ends; exit code 1 unless it succeeds. Ctrl-C detaches, the job goes on."""
    with connect(url) as client:
        job_id = find_job(client, given, last)
        with detachable(job_id, url):
            _wait(client, job_id, timeout_s, as_json)


def _wait(client: Client, job_id: str, timeout_s: float | None, as_json: bool) -> None:
    try:
        if task_view.is_task(client, job_id):
            task = client.jobs.wait(job_id, timeout_s=timeout_s)
            err.print(task_view.describe_end(task))
            finish(task, as_json)
            return
        job = client.wait(job_id, timeout_s=timeout_s)
    except TimeoutError as error:
        raise EdaError(f"{error}; the job goes on, see `eda jobs show {job_id}`") from error
    err.print(view.describe_end(client, job))
    outcome.show_outcome(job)
    finish(job, as_json)


@app.command(epilog=example("eda jobs cancel adapt_01KD"))
def cancel(
    given: JobArgument = None, last: LastOption = False, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Stop a job."""
    with connect(url) as client:
        job_id = find_job(client, given, last)
        source = client.jobs if task_view.is_task(client, job_id) else client
        _show_change(source.cancel(job_id), as_json)


@app.command(epilog=example("eda jobs retry adapt_01KD"))
def retry(
    given: JobArgument = None, last: LastOption = False, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Queue a failed or cancelled job again; finished stages are not repeated."""
    with connect(url) as client:
        job_id = find_job(client, given, last)
        source = client.jobs if task_view.is_task(client, job_id) else client
        _show_change(source.retry(job_id), as_json)


@app.command(epilog=example("eda jobs priority adapt_01KD 80"))
def priority(
    given: JobArgument = None,
    value: Annotated[
        int | None,
        typer.Argument(metavar="PRIORITY", min=0, max=100, show_default=False, help="0 to 100; higher runs first."),
    ] = None,
    last: LastOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a queued job up or down."""
    if last and value is None and given is not None:
        value, given = _priority(given), None
    if value is None:
        raise InputError("give a priority of 0 to 100 behind the job", param="priority")
    with connect(url) as client:
        job_id = find_job(client, given, last)
        source = client.jobs if task_view.is_task(client, job_id) else client
        _show_change(source.set_priority(job_id, value), as_json, f"priority {value}")


@app.command(epilog=example("eda jobs rm adapt_01KD", "eda jobs rm --last --json"))
def rm(given: JobArgument = None, last: LastOption = False, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Delete a job that has ended: its row, events, logs and run directory. Refused while a pack or a draft that it
    published, or a deployment that it made, is there.
    """
    with connect(url) as client:
        gone = client.jobs.delete(find_job(client, given, last))
    if as_json:
        print_json(gone)
        return
    freed = f", {size(gone.freed_bytes)}" if gone.freed_bytes else ""
    out.print(f"{gone.id} is gone: its row, events, logs and run directory{freed}")


app.command(epilog=example("eda jobs events adapt_01KD -f"))(follow.events)
app.command(epilog=example("eda jobs logs adapt_01KD -f", "eda jobs logs adapt_01KD --stage train --tail 50"))(
    follow.logs
)

app.command(epilog=example("eda jobs samples adapt_01KD --dropped", "eda jobs samples adapt_01KD --out samples.jsonl"))(
    samples.samples
)


def finish(job: Adaptation | Job, as_json: bool) -> None:
    """Print a terminal job when asked to, and leave with its exit code."""
    if as_json:
        print_json(job)
    if job.status != "succeeded":
        raise typer.Exit(Exit.JOB_FAILED)


def _priority(text: str) -> int:
    """The priority that stands alone beside `--last`."""
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_PRIORITY):
        raise InputError(f"priority is {text[:16]!r}; it must be a whole number of 0 to 100", param="priority")
    return int(text)


def require_served(client: Client, job: Adaptation) -> None:
    """Wait while what a job has deployed is being loaded; a service that does not serve is not waited for.

    Raises:
        NotServedError: It cannot be loaded.
    """
    begins_until = time.monotonic() + _BEGINS_TO_LOAD_S
    try:
        while (found := client.deployments.get(job.served_name)).state == "pending":
            if found.job_id != job.id or time.monotonic() >= begins_until:
                return
            time.sleep(0.5)
    except ApiError as error:
        if error.status not in {403, 404}:
            raise
        return  # the job was not to deploy, or this key may not look
    if found.job_id == job.id and found.state in {"loading", "failed"}:
        with err.status(f"waiting until {found.name} is ready"):
            client.deployments.wait_ready(found.name, timeout_s=_READY_TIMEOUT_S)


def _ls_tasks(
    url: str | None, kind: str, status: str | None, metadata: dict[str, str], limit: int | None, as_json: bool
) -> None:
    """List imports or measurements; without a limit every one."""
    with connect(url) as client:
        if limit is None:
            jobs, has_more = list(client.jobs.iterate(status=status, kind=kind, metadata=metadata)), False
        else:
            page = client.jobs.page(limit=limit, status=status, kind=kind, metadata=metadata)
            jobs, has_more = list(page), page.has_more
    if as_json:
        print_json([job.model_dump(mode="json") for job in jobs])
        return
    typer.echo(task_view.jobs_table(jobs) if jobs else "no jobs")
    if has_more:
        err.print("there are more; --all lists them")


def _show_change(job: Adaptation | Job, as_json: bool, note: str = "") -> None:
    if as_json:
        print_json(job)
    else:
        out.print(f"{job.id} {view.coloured(job.status)} {note}".rstrip())
