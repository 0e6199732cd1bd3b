"""Prompts that replicas keep for a deployment if it asks for it: `<home>/prompts/<uid>/`, one file per replica.

The uid is the deployment's own: a name that is deleted and made again does not get the old prompts, and a running
answer of the old deployment writes nothing into the new one's. Only the user of the service can read the files. A file
is rewritten with its newest half when it has twice the number of prompts to keep. Without the directory, which is
deleted with the deployment, nothing is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

MAX_CHARACTERS = 16_384
_FROZEN = "frozen-"
_MAX_FILES = 16


def directory(home: Path, uid: str) -> Path:
    """Return the directory of a deployment's prompts.

    Raises:
        ValueError: The uid is no name of a directory, and could lead to files of others.
    """
    if uid in {"", ".", ".."} or "/" in uid or "\0" in uid:
        raise ValueError(f"{uid[:40]!r} is no uid of a deployment")
    return home / "prompts" / uid


def open_directory(home: Path, uid: str) -> Path:
    """Make the directory, for this user only, and delete files of replicas that ended long ago."""
    path = directory(home, uid)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = sorted(path.glob("*.jsonl"), key=_age)
    for old in files[: max(0, len(files) - _MAX_FILES)]:
        old.unlink(missing_ok=True)
    return path


def forget(home: Path, uid: str) -> None:
    """Delete the prompts; do nothing if the uid is invalid, as in a row that cannot be read."""
    with contextlib.suppress(ValueError):
        shutil.rmtree(directory(home, uid), ignore_errors=True)


def take_over(home: Path, name: str, uid: str) -> None:
    """Move the prompts that earlier versions kept under a deployment's name. Frozen files stay where they are, because
    jobs name them by their paths.
    """
    try:
        before = directory(home, name)
    except ValueError:
        return  # no prompts were kept under such a name
    files = [path for path in before.glob("*.jsonl") if not path.name.startswith(_FROZEN)]
    for path in files:
        with contextlib.suppress(FileNotFoundError):  # another process over this home was faster
            path.rename(open_directory(home, uid) / path.name)
    with contextlib.suppress(OSError):
        before.rmdir()  # if nothing is left in it


class KeptPrompt(TypedDict):
    """A line of a file of prompts.

    Attributes:
        at: Time of the request, in seconds since the epoch.
        messages: Messages of the conversation, each with its text.
    """

    at: float
    messages: list[dict[str, str]]


class PromptFile:
    """One replica's file of one deployment.

    Args:
        path: Path of the file, whose directory exists.
        num: Number of prompts to keep.
    """

    def __init__(self, path: Path, num: int) -> None:
        self._path, self._num = path, num
        self._num_lines = len(_lines(path))

    def add(self, row: KeptPrompt) -> None:
        """Append a prompt; if the directory is gone, nothing is kept any more and nothing is written."""
        with contextlib.suppress(FileNotFoundError):
            _write(self._path, [json.dumps(row)], append=True)
            self._num_lines += 1
            if self._num_lines >= 2 * self._num:
                kept = _lines(self._path)[-self._num :]
                partial = self._path.with_suffix(".partial")
                _write(partial, kept, append=False)
                partial.replace(self._path)
                self._num_lines = len(kept)


def newest(home: Path, uid: str, num: int) -> list[KeptPrompt]:
    """Read the newest distinct prompts of all replicas, oldest first."""
    found: dict[str, KeptPrompt] = {}
    for path in directory(home, uid).glob("*.jsonl"):
        if path.name.startswith(_FROZEN):
            continue
        for line in _lines(path)[-num:]:
            with contextlib.suppress(ValueError):  # the last line may be incomplete
                row: KeptPrompt = json.loads(line)
                key = json.dumps(row["messages"])
                if key not in found or found[key]["at"] < row["at"]:
                    found[key] = row
    return sorted(found.values(), key=lambda row: float(row["at"]))[-num:]


def freeze(home: Path, uid: str, rows: Sequence[KeptPrompt], label: str) -> Path:
    """Write prompts as a data set that does not change any more."""
    path = open_directory(home, uid) / f"{_FROZEN}{label}.jsonl"
    _write(path, [json.dumps({"messages": row["messages"]}) for row in rows], append=False)
    return path


def _write(path: Path, lines: Sequence[str], *, append: bool) -> None:
    how = os.O_APPEND if append else os.O_TRUNC
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "w", encoding="utf-8") as stream:
        stream.write("".join(f"{line}\n" for line in lines))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
