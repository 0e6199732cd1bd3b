"""Logs: values appended one by one, read from an index on, in one order for all who read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from eda_service.storage.objects import Objects

_AHEAD = 16  # entries asked for at once


class Log(Protocol):
    """Entries numbered from 0."""

    def append(self, value: Any) -> object:
        """Add an entry."""

    def read(self, start: int = 0) -> list[Any]:
        """Entries from a number on."""


class LineFile:
    """A file of one JSON value a line, on a disk that all writers share.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, value: Any) -> None:
        """A line is written in one call, so concurrent writers do not interleave."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(value) + "\n")

    def read(self, start: int = 0) -> list[Any]:
        """Entries from a number on; a torn last line is left for the next call."""
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines[start:]]


class Journal:
    """Objects numbered from 0, each created on the condition that it is not there.

    An object cannot be appended to. So each entry is an object of its own; whoever finds a number taken takes the
    next. A reader walks the numbers until one is missing: no listing, no gap, the same order for all.

    Args:
        objects: Where; the journal has all below it.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._next = 0  # no entry before it is missing

    def append(self, value: Any) -> int:
        """Add an entry; returns its number."""
        data = json.dumps(value).encode("utf-8")
        number = self._next + len(self.read(self._next))
        while not self._objects.create(_key(number), data):
            number += 1
        self._next = number + 1
        return number

    def read(self, start: int = 0) -> list[Any]:
        """Entries from a number on."""
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
    """A log that nobody needs, as what it would tell is read as fast where it lies."""

    def append(self, value: Any) -> None:
        """Nothing is kept."""

    def read(self, start: int = 0) -> list[Any]:
        """There are no entries."""
        return []


def _key(number: int) -> str:
    return f"{number:08d}.json"
