"""What every command shares: the consoles, the exit codes, the service's URL and how an error is shown."""

from __future__ import annotations

import json
import os
import sys
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from typer.core import TyperGroup

from eda_service.artifacts.rundir import home_dir
from eda_service.client import DEFAULT_URL, ApiError, Client, ServiceUnreachableError
from eda_service.errors import EdaError, InputError

out = Console(soft_wrap=True, highlight=False)  # lines are copied and piped: the terminal may wrap them, we do not
err = Console(stderr=True, soft_wrap=True, highlight=False)


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    JOB_FAILED = 1
    BAD_INPUT = 2
    UNREACHABLE = 3


UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="EDA_URL", help="Service URL; default: the one that `eda up` wrote down.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


class Commands(TyperGroup):
    """A command group that turns our errors into a message and an exit code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except EdaError as error:
            err.print(f"[bold red]error:[/] {_plain(error)}")
            raise typer.Exit(exit_code(error)) from error


def exit_code(error: EdaError) -> Exit:
    """The exit code that stands for an error."""
    if isinstance(error, ServiceUnreachableError):
        return Exit.UNREACHABLE
    if isinstance(error, InputError) or (isinstance(error, ApiError) and error.status < 500):
        return Exit.BAD_INPUT
    return Exit.JOB_FAILED


def connect(url: str | None) -> Client:
    """A client of the given service, or of the one that `eda up` started for this home."""
    return Client(url or running_url() or DEFAULT_URL)


def running_url(home: Path | None = None) -> str | None:
    """The API URL in `<home>/up.json`, if there is one."""
    facts = read_up(home or home_dir())
    return None if facts is None else str(facts["api_url"])


def read_up(home: Path) -> dict[str, Any] | None:
    """What `eda up` wrote down, or None."""
    try:
        facts: dict[str, Any] = json.loads((home / "up.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts


def print_json(value: BaseModel | list[Any] | dict[str, Any]) -> None:
    """Write one JSON document to standard output, without colour or wrapping."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    sys.stdout.write(json.dumps(plain, indent=None if not sys.stdout.isatty() else 2) + os.linesep)


def _plain(error: EdaError) -> str:
    param = f" (param: {error.param})" if error.param else ""
    request = f" [request {error.request_id}]" if isinstance(error, ApiError) and error.request_id else ""
    return f"{error.message}{param}{request}".replace("[", r"\[")
