"""What every command shares: the consoles, the exit codes, the service's URL, detaching, and how an error is shown."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from typer.core import TyperGroup

from eda_service.cli.as_commands import as_commands
from eda_service.cli.default_map import default_map
from eda_service.cli.defaults import DefaultsFile, read_key
from eda_service.client import DEFAULT_URL, ApiError, Client, ServiceUnreachableError
from eda_service.environment import Environment
from eda_service.errors import EdaError, InputError
from eda_service.field_errors import as_number, field_error
from eda_service.names import did_you_mean
from eda_service.raycluster.up_file import read_up

out = Console(soft_wrap=True, highlight=False)  # lines are copied and piped: the terminal may wrap them, we do not
err = Console(stderr=True, soft_wrap=True, highlight=False)


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    JOB_FAILED = 1
    CHECK_FAILED = 1
    BAD_INPUT = 2
    UNREACHABLE = 3


UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="EDA_URL", help="Service URL; default: the one that `eda up` wrote down.")
]
WatchOption = Annotated[
    bool, typer.Option("--watch/--no-watch", help="Show progress until the job ends; Ctrl-C detaches.")
]
IdempotencyOption = Annotated[
    str | None,
    typer.Option("--idempotency-key", metavar="KEY", help="The same key again returns the job that it made."),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Queue it although an equal job is live, or the hub cannot be asked.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
UseGpuOption = Annotated[bool, typer.Option("--use-gpu", help="Reserve a GPU for it.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="State root; default: EDA_HOME or ~/.eda.")]

_NOT_ONE_OF = " is not one of "
_JSON, _JSON_FLAG = "eda.json", "--json"


def _remember_json(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[_JSON] = value  # shared with the groups above, which print errors
    return value


JsonOption = Annotated[
    bool,
    typer.Option(
        _JSON_FLAG,
        callback=_remember_json,
        help="Print JSON on standard output; an error is JSON too, on standard error.",
    ),
]


_USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]  # Typer's own, or click's: it does not export it


class Commands(TyperGroup):
    """A command group that turns our errors into a message and an exit code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except EdaError as error:
            _print_error(error, as_json=bool(ctx.meta.get(_JSON)))
            raise typer.Exit(exit_code(error)) from error
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):  # Typer shows pydantic's words
                error.message = _option_error(error.__cause__)
            raise


class Root(Commands):
    """The group of all commands: the user's defaults file counts where neither a flag nor a variable does."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            ctx.default_map = default_map(self, user_defaults())
        except EdaError as error:
            _print_error(error, as_json=False)
            raise typer.Exit(exit_code(error)) from error
        wants_json = _JSON_FLAG in ctx.args  # what comes before it may be wrong, and end the reading
        try:
            return super().invoke(ctx)
        except _USAGE_ERROR as error:
            if not wants_json:
                raise
            param = error.param.name if isinstance(error, typer.BadParameter) and error.param is not None else None
            _print_error(InputError(error.format_message(), param=param), as_json=True)
            raise typer.Exit(Exit.BAD_INPUT) from error


def user_defaults() -> DefaultsFile:
    """The user's defaults file, as it is now.

    Raises:
        InputError: It is none.
    """
    return DefaultsFile.read(os.environ)


def exit_code(error: EdaError) -> Exit:
    """The exit code that stands for an error."""
    if isinstance(error, ServiceUnreachableError):
        return Exit.UNREACHABLE
    if isinstance(error, ApiError):  # too many requests are nobody's wrong input
        return Exit.BAD_INPUT if error.status < 500 and not error.retryable else Exit.JOB_FAILED
    if isinstance(error, InputError):
        return Exit.BAD_INPUT
    return Exit.JOB_FAILED


def connect(url: str | None) -> Client:
    """A client of the given service, or of the one that `eda up` started for this home; with the user's key."""
    return Client(url or running_url() or DEFAULT_URL, api_key=api_key())


def api_key() -> str | None:
    """The environment's key, or the one in the file that the user's defaults name.

    Raises:
        InputError: That file cannot be read, or others may read it.
    """
    return Environment.read().api_key or read_key(user_defaults())


def own_home() -> Path:
    """Root of all state: of the environment, or of the user's defaults, or `~/.eda`."""
    environment, defaults = Environment.read(), user_defaults()
    if defaults.home is not None and "home" not in environment.model_fields_set:
        return Path(defaults.home).expanduser().resolve()
    return environment.home.expanduser().resolve()


def confirmed(question: str, yes: bool) -> bool:
    """Whether a person agrees, or has said so before; nobody does where nobody can be asked."""
    return yes or (sys.stdin.isatty() and typer.confirm(question, err=True))


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(("Example:" if len(lines) == 1 else "Examples:", *lines))


@contextmanager
def detachable(job_id: str, url: str | None) -> Iterator[None]:
    """Ctrl-C inside leaves with exit code 0: the job goes on, and a line on standard error says how to come back.

    Raises:
        ServiceUnreachableError: The service went away meanwhile; what becomes of the job is said, too.
    """
    back = f"eda jobs watch {job_id}" + (f" --url {shlex.quote(url)}" if url else "")
    try:
        yield
    except ServiceUnreachableError as error:
        message = f"{error.message}; it then goes on with the job from its last record: `{back}`"
        raise ServiceUnreachableError(message, param=error.param) from error
    except KeyboardInterrupt:
        err.print(f"detached; the job goes on, come back with `{back}`", markup=False)
        raise typer.Exit(Exit.OK) from None


def running_url(home: Path | None = None) -> str | None:
    """The API URL in `<home>/up.json`, if there is one."""
    up_file = read_up(home or own_home())
    return None if up_file is None else str(up_file["api_url"])


def print_json(value: BaseModel | list[Any] | Mapping[str, Any], *, compact: bool = False) -> None:
    """Write one JSON document to standard output, without colour or wrapping; `compact` keeps it on one line."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    sys.stdout.write(json.dumps(plain, indent=2 if sys.stdout.isatty() and not compact else None) + "\n")
    sys.stdout.flush()  # a reader of a followed stream wants each line when it comes


def _option_error(error: ValidationError) -> str:
    """What is wrong with an option's value, which the person has typed and may see again."""
    first = error.errors(include_url=False)[0]
    problem = field_error({**first, "input": as_number(first["input"])}, name="it")
    given = repr(str(first["input"])[:64])
    if _NOT_ONE_OF in problem:  # Typer's words for a choice
        words = re.findall(r"'([^']*)'", problem.partition(_NOT_ONE_OF)[2])
        return f"it is {given}; it must be {' or '.join(words)}{did_you_mean(str(first['input']), words)}"
    return problem.replace("it is text", f"it is {given}", 1)


def _print_error(error: EdaError, *, as_json: bool) -> None:
    request_id = error.request_id if isinstance(error, ApiError) else None
    message = as_commands(error.message)
    if as_json:
        fields = {"message": message, "param": error.param, "code": error.code, "request_id": request_id}
        err.print(json.dumps({"error": fields}), markup=False)
        return
    param = f" (param: {error.param})" if error.param else ""
    request = f" [request {request_id}]" if request_id else ""
    plain = f"{message}{param}{request}".replace("[", r"\[")
    err.print(f"[bold red]error:[/] {plain}")
