"""What has become of each shard of a generate stage: one JSON a shard, written after its files.

On disk `<shard>.json` lies beside the shard. On storage each is an object, created once, and the driver also writes
them down by the hundred in a journal, so that a job of ten thousand shards is resumed with some tens of requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eda_service.errors import ArtifactCorruptError
from eda_service.records import FileEntry, Stage
from eda_service.storage.files import verify_files, write_json
from eda_service.storage.journal import Journal
from eda_service.storage.run import RunDir
from eda_service.storage.shards import features_path, tokens_path

_PER_ENTRY = 256


class ShardResults:
    """Results of one job's shards.

    Args:
        run: The job.
    """

    def __init__(self, run: RunDir) -> None:
        self._run, self._directory = run, run.root / Stage.GENERATE.value
        self._storage, self._prefix = run.store.storage, f"{run.store.prefix}/{Stage.GENERATE.value}"
        self._fresh: dict[str, dict[str, Any]] = {}
        self._journal = None if self._storage is None else Journal(self._storage, f"{self._prefix}/journal")

    def read(self, name: str) -> dict[str, Any] | None:
        """A finished shard's result, or None if it has to be (re)written."""
        if self._storage is None:
            return read_shard_json(self._directory, name)
        return _parsed(self._storage.read(self._key(name)))

    def write(self, name: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Say that a shard is finished; returns what counts, which on storage is what was said first."""
        if self._storage is None:
            write_json(self._directory / f"{name}.json", value)
            return dict(value)
        files = [FileEntry(**entry) for entry in value["files"]]
        self._run.store.upload(Stage.GENERATE, files)
        created = self._storage.create(self._key(name), json.dumps(value).encode("utf-8"))
        for entry in files:  # hidden states of all shards would fill this machine's disk
            (self._directory / entry.path).unlink()
        return dict(value) if created else self.read(name) or dict(value)

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Remember a finished shard for the journal; for the driver."""
        self._fresh[name] = dict(value)
        if len(self._fresh) >= _PER_ENTRY:
            self.flush()

    def flush(self) -> None:
        """Write down what was noted."""
        if self._journal is not None and self._fresh:
            self._journal.append(self._fresh)
        self._fresh = {}

    def finished(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Results of those shards that have one.

        A listing says which objects are worth asking for. One that it leaves out is generated again, and the result
        that was there first is taken: that costs time and nothing else.
        """
        if self._storage is None or self._journal is None:
            found = {name: read_shard_json(self._directory, name) for name in names}
            return {name: value for name, value in found.items() if value is not None}
        wanted, known = set(names), dict[str, dict[str, Any]]()
        for entry in self._journal.read():
            known.update(entry)
        listed = {Path(name).stem for name in self._storage.children(f"{self._prefix}/shards")}
        asked = sorted((wanted & listed) - set(known))
        for name, data in zip(asked, self._storage.read_many([self._key(each) for each in asked]), strict=True):
            value = _parsed(data)
            if value is not None:
                known[name] = value
                self.note(name, value)
        return {name: known[name] for name in names if name in known}

    def _key(self, name: str) -> str:
        return f"{self._prefix}/shards/{name}.json"


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        return None
    value: dict[str, Any] = json.loads(data)
    return value


def read_shard_json(directory: Path, name: str) -> dict[str, Any] | None:
    """A finished shard's JSON on disk, or None if it has to be (re)written."""
    path = directory / f"{name}.json"
    if not path.exists():
        return None
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    needed = [FileEntry(**{**entry, "transient": False}) for entry in value["files"]]
    try:
        verify_files(directory, needed)
    except ArtifactCorruptError:
        for broken in (path, tokens_path(directory, name), features_path(directory, name)):
            broken.unlink(missing_ok=True)
        return None
    return value
