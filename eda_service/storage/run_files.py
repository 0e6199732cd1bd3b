"""The small files of a run directory that processes on several machines share: on disk, or on storage.

On disk they are what ADR 0001 describes, appended and replaced in place. On storage each is an object below
`runs/<job>/`, and events are a journal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from eda_service.storage.files import claim_file, write_bytes
from eda_service.storage.journal import Journal
from eda_service.storage.objects import Storage


class RunFiles(Protocol):
    """Small files by name, relative to the run directory."""

    def read(self, name: str) -> str | None:
        """Content, or None."""

    def write(self, name: str, text: str) -> None:
        """Replace, atomically."""

    def create(self, name: str, text: str) -> bool:
        """Write unless it is there; whether it was written."""

    def remove(self, name: str) -> None:
        """Delete, if it is there."""

    def append_event(self, line: dict[str, Any]) -> None:
        """Add to the events."""

    def events(self, start: int) -> list[dict[str, Any]]:
        """Events from an index on."""


class DiskFiles:
    """Files under a directory that all processes of the job see."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> str | None:
        """Content, or None."""
        try:
            return (self._root / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """Replace, atomically."""
        write_bytes(self._root / name, text.encode("utf-8"))

    def create(self, name: str, text: str) -> bool:
        """Write unless it is there; whether it was written."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return claim_file(path, text)

    def remove(self, name: str) -> None:
        """Delete, if it is there."""
        (self._root / name).unlink(missing_ok=True)

    def append_event(self, line: dict[str, Any]) -> None:
        """A line is written in one call, so concurrent writers do not interleave."""
        with (self._root / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def events(self, start: int) -> list[dict[str, Any]]:
        """Events from an index on; a torn last line is left for the next call."""
        lines = (self.read("events.jsonl") or "").split("\n")[:-1]
        return [json.loads(line) for line in lines[start:]]


class StoredFiles:
    """Objects below `runs/<job>/`."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        self._storage, self._prefix = storage, prefix
        self._events = Journal(storage, f"{prefix}/events")

    def read(self, name: str) -> str | None:
        """Content, or None."""
        data = self._storage.read(f"{self._prefix}/{name}")
        return None if data is None else data.decode("utf-8")

    def write(self, name: str, text: str) -> None:
        """Replace, atomically."""
        self._storage.write(f"{self._prefix}/{name}", text.encode("utf-8"))

    def create(self, name: str, text: str) -> bool:
        """Write unless it is there; whether it was written."""
        return self._storage.create(f"{self._prefix}/{name}", text.encode("utf-8"))

    def remove(self, name: str) -> None:
        """Delete, if it is there."""
        self._storage.delete([f"{self._prefix}/{name}"])

    def append_event(self, line: dict[str, Any]) -> None:
        """Add to the events."""
        self._events.append(line)

    def events(self, start: int) -> list[dict[str, Any]]:
        """Events from an index on."""
        return self._events.read(start)
