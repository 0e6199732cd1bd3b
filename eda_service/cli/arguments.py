"""Arguments that several commands take: a job's id, completed by the shell, pairs of key and value, paths."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from eda_service.cli.completion.offered import offered
from eda_service.client import Client
from eda_service.config import presets
from eda_service.errors import InputError

_BEGINNING = re.compile(r"[a-z]+_0[0-9A-HJKMNP-TV-Z]{0,24}")  # of an id of ours; others were chosen by somebody
_MAX_CANDIDATES = 5

CompleterT = TypeVar("CompleterT", bound=Callable[..., object])


def offering(kind: str) -> Callable[[CompleterT], CompleterT]:
    """Mark what completes an argument with the kind of ids or names that the service lists (`offered`)."""

    def mark(function: CompleterT) -> CompleterT:
        function.offers = kind  # type: ignore[attr-defined]
        return function

    return mark


@offering("job")
def complete_job(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest jobs, with status and model; none when the service does not answer."""
    return _offered("job", ctx, incomplete)


@offering("adaptation")
def complete_adaptation(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest adaptations, with status and name."""
    return _offered("adaptation", ctx, incomplete)


@offering("deployment")
def complete_deployment(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names at the endpoint."""
    return _offered("deployment", ctx, incomplete)


@offering("pack")
def complete_pack(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Packs, and versions of them."""
    return _offered("pack", ctx, incomplete)


@offering("draft")
def complete_draft(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Base drafts as name@version."""
    return _offered("draft", ctx, incomplete)


@offering("file")
def complete_file(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of uploaded files, with their names."""
    return _offered("file", ctx, incomplete)


def one_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """What completes a value that is one of some words, or something that only the user knows."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


complete_preset = one_of(presets.names())


def complete_target(incomplete: str) -> list[str]:
    """Targets that have a name of their own; hub ids and directories are the user's."""
    from eda_service.targets.files.resolve import known_targets

    return [name for name in known_targets() if name.startswith(incomplete)]


def _offered(kind: str, ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    found = offered(kind, url=ctx.params.get("url"), environment=os.environ)
    return [offer for offer in found if offer[0].startswith(incomplete)]


JobArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="ID",
        show_default=False,
        help="Job id, as `eda jobs ls` shows it, or the beginning of one.",
        autocompletion=complete_job,
    ),
]
AdaptationArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="ID",
        show_default=False,
        help="Id of an adaptation, or the beginning of one.",
        autocompletion=complete_adaptation,
    ),
]
LastOption = Annotated[bool, typer.Option("--last", help="The newest job, in place of an id.")]


def find_job(client: Client, given: str | None, last: bool, *, kind: str | None = None) -> str:
    """The id of the job that a command is about.

    Args:
        client: Asks the service, where that is needed.
        given: An id, or the beginning of one.
        last: The newest job in its place.
        kind: Only jobs of this kind are meant by `last` and by a beginning.

    Raises:
        InputError: Both or neither, no such job, or several that begin so.
    """
    if last == (given is not None):
        wanted = "either a job id or --last" if last else "a job id, or --last for the newest job"
        raise InputError(f"give {wanted}", param="id")
    if given is not None and not _BEGINNING.fullmatch(given):
        return given
    page = client.jobs.page(limit=1 if last else _MAX_CANDIDATES + 1, kind=kind, prefix=given)
    found = [job for job in page if given is None or job.id.startswith(given)]
    if last:
        if not found:
            raise InputError("there is no job yet; `eda adapt` makes one", param="id")
        return found[0].id
    assert given is not None
    if len(found) <= 1 or any(job.id == given for job in found):
        return found[0].id if len(found) == 1 else given
    more = ", ..." if len(found) > _MAX_CANDIDATES else ""
    told = ", ".join(f"{job.id} ({job.status}, {job.model})" for job in found[:_MAX_CANDIDATES])
    raise InputError(f"several jobs begin with {given}: {told}{more}; write more of the id", param="id")


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
    """A path made absolute, since the service does not share our working directory; anything else is an id.

    Raises:
        InputError: It begins in our working directory, and nothing is there.
    """
    path = os.path.expanduser(value)
    if value.startswith(("./", "../")) and not os.path.lexists(path):
        raise InputError(f"nothing is at {value[:256]}; check the path")
    if value.startswith(("/", "./", "../", "~")) or os.path.exists(path):  # neither raises, whatever the text
        return str(Path(path).absolute())
    return value
