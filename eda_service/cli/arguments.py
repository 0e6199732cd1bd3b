"""Arguments that several commands take: a job's id, completed by the shell, pairs of key and value, paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from eda_service.cli.console import running_url
from eda_service.client import DEFAULT_URL, Client
from eda_service.errors import EdaError, InputError

_COMPLETION_TIMEOUT_S = 2.0


def complete_job(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest jobs, with status and name; none when the service does not answer."""
    url = ctx.params.get("url") or running_url() or DEFAULT_URL
    try:
        with Client(url, timeout_s=_COMPLETION_TIMEOUT_S, max_retries=0) as client:
            jobs = list(client.page(limit=50))
    except EdaError:
        return []  # a shell that completes has no place for an error
    return [(job.id, f"{job.status} {job.served_name}") for job in jobs if job.id.startswith(incomplete)]


JobArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Job id, as `eda jobs ls` shows it.", autocompletion=complete_job)
]


def as_pair(text: str, option: str) -> tuple[str, str]:
    """`"key=value"` in two.

    Raises:
        InputError: No `=`, or nothing before it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"{option} {text!r} is not of the form key=value", param=option.lstrip("-"))
    return key, value


def as_pairs(texts: list[str], option: str) -> dict[str, str]:
    """Several pairs as a dictionary."""
    return dict(as_pair(text, option) for text in texts)


def as_path(value: str) -> str:
    """A path made absolute, since the service does not share our working directory; anything else is an id."""
    path = os.path.expanduser(value)
    if value.startswith(("/", "./", "../", "~")) or os.path.exists(path):  # neither raises, whatever the text
        return str(Path(path).absolute())
    return value
