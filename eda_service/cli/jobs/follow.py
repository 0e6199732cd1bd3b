"""`eda jobs events` and `eda jobs logs`: what happened and what was logged, once or until the job ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from eda_service.cli.arguments import JobArgument, LastOption, find_job
from eda_service.cli.console import JsonOption, UrlOption, connect, detachable, print_json
from eda_service.cli.jobs import view
from eda_service.cli.jobs.task_view import is_task
from eda_service.client import Client, JobEvent
from eda_service.errors import InputError
from eda_service.records import Stage

FollowOption = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on until the job ends. Ctrl-C detaches, the job goes on.")
]


def events(
    given: JobArgument = None,
    last: LastOption = False,
    follow: FollowOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened to a job; with --json one document per line."""
    with connect(url) as client:
        job_id = find_job(client, given, last)
        of_task = is_task(client, job_id)
        if not follow:
            for event in client.jobs.events(job_id) if of_task else client.events(job_id):
                _print_event(event, as_json)
            return
        with detachable(job_id, url):
            for event in _followed(client, job_id) if of_task else client.stream_events(job_id):
                _print_event(event, as_json)


def logs(
    given: JobArgument = None,
    last: LastOption = False,
    stage: Annotated[
        Stage | None, typer.Option(help="Default: the latest stage that logged, then each later one.")
    ] = None,
    tail: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many lines from before.")] = 200,
    follow: FollowOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last lines of a stage's log; with --json a list, with -f and --json one `{"line": ...}` per line."""
    name = None if stage is None else stage.value
    with connect(url) as client:
        job_id = find_job(client, given, last)
        of_task = is_task(client, job_id)
        if follow and of_task:
            raise InputError(
                f"the log of {job_id} cannot be followed; leave -f out, or use `eda jobs watch {job_id}`",
                param="follow",
            )
        if follow:
            with detachable(job_id, url):
                for line in client.follow_logs(job_id, stage=name, tail=tail):
                    print_json({"line": line}, compact=True) if as_json else typer.echo(line)
            return
        source = client.jobs if of_task else client
        lines = source.logs(job_id, stage=name, tail=tail)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        typer.echo(line)


def _followed(client: Client, job_id: str) -> Iterator[JobEvent]:
    """Events of an import or a measurement, which are few, until it has ended."""
    after: str | None = None
    for _ in client.jobs.watch(job_id, interval_s=1.0):
        for event in client.jobs.events(job_id, after=after):
            after = event.id
            yield event


def _print_event(event: JobEvent, as_json: bool) -> None:
    if as_json:
        print_json(event, compact=True)
    else:
        typer.echo(view.event_line(event))
