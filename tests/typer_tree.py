"""The `eda` command as a tree, and whether it would take a line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from eda_service.cli.main import app


def _below(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _below(child, *path, name)


ALL: dict[tuple[str, ...], Any] = dict(_below(get_command(app)))
"""Every command and group by its path."""


def check_line(line: str) -> None:
    """Parse a line that begins with `eda`, without running it.

    Raises:
        ValueError: No such command.
        Exception: Click's, which Typer keeps to itself: no such option or value.
    """
    words = shlex.split(line, comments=True)[1:]
    leaf = max((path for path in ALL if tuple(words[: len(path)]) == path), key=len)
    rest = words[len(leaf) :]
    if hasattr(ALL[leaf], "commands") and rest and not rest[0].startswith("-"):
        raise ValueError(f"No such command: {rest[0]}")
    if leaf:  # else an option of `eda` itself, which would act at once
        with ALL[leaf].make_context("eda", rest):
            pass
