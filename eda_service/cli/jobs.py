"""`eda jobs ...`: look at jobs and change them."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from eda_service.cli import view
from eda_service.cli.console import Commands, Exit, JsonOption, UrlOption, connect, out, print_json
from eda_service.client import Adaptation

app = typer.Typer(cls=Commands, no_args_is_help=True, help="Look at adaptation jobs, cancel and retry them.")

JobArgument = Annotated[str, typer.Argument(metavar="ID", help="Job id, as `eda jobs ls` shows it.")]


@app.command("ls")
def ls(
    status: Annotated[str | None, typer.Option(help="Only jobs in this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most this many.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with connect(url) as client:
        jobs = client.page(limit=limit, status=status)
    if as_json:
        print_json([job.model_dump(mode="json") for job in jobs])
    else:
        typer.echo(view.jobs_table(jobs) if jobs else "no jobs")


@app.command()
def show(job_id: JobArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show one job."""
    with connect(url) as client:
        job = client.get(job_id)
    if as_json:
        print_json(job)
        return
    typer.echo(view.jobs_table([job]))
    if job.is_terminal:
        out.print(view.describe_end(job))


@app.command()
def events(
    job_id: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened to a job."""
    with connect(url) as client:
        last: str | None = None
        while True:
            ended = not follow or client.get(job_id).is_terminal
            for event in client.events(job_id, after=last):
                last = event.id
                if as_json:
                    print_json(event)
                else:
                    at = time.strftime("%H:%M:%S", time.localtime(event.created_at))
                    stage = f"{event.stage}: " if event.stage else ""
                    out.print(f"{at} {event.level:<7} {event.type:<18} {stage}{event.message}", markup=False)
            if ended:
                return
            time.sleep(1.0)


@app.command()
def logs(
    job_id: JobArgument,
    stage: Annotated[str | None, typer.Option(help="Default: the latest stage that logged.")] = None,
    tail: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many lines.")] = 200,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last lines of a stage's log."""
    with connect(url) as client:
        lines = client.logs(job_id, stage=stage, tail=tail)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        typer.echo(line)


@app.command()
def cancel(job_id: JobArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Stop a job."""
    with connect(url) as client:
        _show_change(client.cancel(job_id), as_json)


@app.command()
def retry(job_id: JobArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Queue a failed or cancelled job again; finished stages are not repeated."""
    with connect(url) as client:
        _show_change(client.retry(job_id), as_json)


@app.command()
def wait(job_id: JobArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Watch a job until it ends; exit code 1 unless it succeeds."""
    with connect(url) as client:
        finish(view.watch(client, job_id), as_json)


def finish(job: Adaptation, as_json: bool) -> None:
    """Print a terminal job when asked to, and leave with its exit code."""
    if as_json:
        print_json(job)
    if job.status != "succeeded":
        raise typer.Exit(Exit.JOB_FAILED)


def _show_change(job: Adaptation, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        out.print(f"{job.id} {view.coloured(job.status)}")
