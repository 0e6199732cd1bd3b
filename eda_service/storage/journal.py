"""Logs: values appended one by one and read from an index on, in the same order for all readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from eda_service.storage.objects import Objects

_AHEAD = 16  # entries that are requested at once


class Log(Protocol):
    """A log with entries numbered from 0."""

    def append(self, value: Any) -> object:
        """Add an entry."""

    def read(self, start: int = 0) -> list[Any]:
        """Read the entries from a number on."""


class LineFile:
    """A file of one JSON value per line, on a disk that all writers share.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, value: Any) -> None:
        """Append a value; its line is written in one call, so that concurrent writers do not interleave."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(value) + "\n")

    def read(self, start: int = 0) -> list[Any]:
        """Read the entries from a number on; an incomplete last line is left for the next call."""
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines[start:]]


class Journal:
    """A log of objects numbered from 0, each created only if its number is free.

    An object cannot be appended to, so each entry is an object of its own; a writer that finds a number taken tries the
    next. A reader follows the numbers until one is missing: it needs no listing, and all readers see the same order
    without gaps.

    Args:
        objects: Objects of the journal.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._next = 0  # no entry before it is missing

    def append(self, value: Any) -> int:
        """Append a value; return its number."""
        data = json.dumps(value).encode("utf-8")
        number = self._next + len(self.read(self._next))
        while not self._objects.create(_key(number), data):
            number += 1
        self._next = number + 1
        return number

    def read(self, start: int = 0) -> list[Any]:
        """Read the entries from a number on."""
        found: list[Any] = []
        ahead = 1
        while True:
            first = start + len(found)
            batch = self._objects.read_many([_key(first + n) for n in range(ahead)])
            for data in batch:
                if data is None:
                    return found
                found.append(json.loads(data))
            ahead = _AHEAD  # one entry is rarely asked for in vain, a long journal is read in strides


class Unwritten:
    """A log that keeps nothing, where readers can read the original as fast."""

    def append(self, value: Any) -> None:
        """Do nothing."""

    def read(self, start: int = 0) -> list[Any]:
        """Return no entries."""
        return []


def _key(number: int) -> str:
    return f"{number:08d}.json"
