"""The files of a run directory: on one disk that all processes of the job see, or on storage by URL between machines.

On one disk a stage's files are at their paths: the last write replaces earlier ones, and the last statement about them
counts. On storage, content is stored under its hash, uploaded before anything names it and fetched where it is needed:
nothing is replaced, and the first statement counts (ADR 0020). Callers do not need to know which of the two is used.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from eda_service.records import FileEntry, Stage
from eda_service.storage.blobs import Blobs
from eda_service.storage.files import directory_bytes, verify_files
from eda_service.storage.journal import Journal, LineFile, Log, Unwritten
from eda_service.storage.objects import DirectoryObjects, Objects
from eda_service.storage.runs.state import Forgotten, JobFile, compact, encoded


@dataclass(frozen=True)
class ShardPlace:
    """The place of the results of a generate stage's shards.

    Attributes:
        folder: Folder with one JSON file per shard.
        encode: Function that encodes a result.
        journal: Log in which the driver records finished shards, by the hundred.
    """

    folder: str
    encode: Callable[[BaseModel], bytes]
    journal: Log


class RunStore(ABC):
    """Files of one job.

    Attributes:
        objects: Small files, by their names below the run directory.
        events: Events of the job's processes.
        shards: Place of the results of shards.
    """

    objects: Objects
    events: Log
    shards: ShardPlace

    def __init__(self, root: Path) -> None:
        self._root = root

    @abstractmethod
    def upload(self, stage: Stage, entries: Iterable[FileEntry]) -> tuple[FileEntry, ...] | None:
        """Upload files of a stage so that other machines find them, before a manifest names them.

        Returns:
            Entries that other machines need to find the files; None: they read the same directory.
        """

    @abstractmethod
    def fetch(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Fetch files of a stage to this machine.

        Raises:
            ArtifactCorruptError: A file is missing on storage, or differs.
        """

    @abstractmethod
    def let_go(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Delete this machine's copies of files that can be fetched again, so that it need not hold all at once."""

    @abstractmethod
    def forget(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry] = ()) -> int:
        """Delete files permanently; return the bytes freed.

        Args:
            stage: Stage of the files.
            entries: Files to delete.
            keep: Other files, whose content under its hash is kept.
        """

    @abstractmethod
    def forget_once(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry]) -> int:
        """Delete files as `forget` does, but do nothing if that was done before; return the bytes freed now."""

    @abstractmethod
    def forget_folder(self, name: str) -> int:
        """Delete everything below a folder of the run directory; return the bytes freed, 0 if they are unknown.

        Args:
            name: Folder relative to the run directory; empty: the whole directory.
        """

    @abstractmethod
    def kept_bytes(self, name: str) -> int | None:
        """Return the bytes in a folder of the run directory; None: it is on storage, which is not asked."""

    @abstractmethod
    def verify(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Check files that a record names, unless `fetch` will do it.

        Raises:
            ArtifactCorruptError: A file is missing, or differs.
        """

    @abstractmethod
    def settle(self, name: str, data: bytes) -> bytes:
        """Write the small file that declares files complete; return the content that counts.

        Args:
            name: Name of the small file.
            data: Content of the small file.
        """

    def delete(self) -> int:
        """Delete everything of the job; return the bytes freed, 0 on storage by URL, where they are unknown."""
        self.objects.delete([JobFile.FILE])  # deleted first, so that the rest does not count as a job
        return self.forget_folder("")

    def share(self, name: str) -> None:
        """Upload a growing file (a log, a curve) as it is now."""
        if (self._root / name).is_file():
            self.objects.put_file(name, self._root / name)

    def shared(self, name: str) -> Path:
        """Return a growing file as its writer last uploaded it."""
        self.objects.get_file(name, self._root / name)
        return self._root / name

    def _remove(self, stage: Stage, entries: Iterable[FileEntry]) -> int:
        """Delete files of this machine; return their bytes."""
        freed = 0
        for path in (self._root / stage.value / entry.path for entry in entries):
            if path.exists():
                freed += path.stat().st_size
                path.unlink()
        return freed


class InPlace(RunStore):
    """The files of a directory that all processes of the job see.

    Args:
        root: The run directory.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.objects = DirectoryObjects(root)
        self.events = LineFile(root / "events.jsonl")
        self.shards = ShardPlace(Stage.GENERATE.value, encoded, Unwritten())

    def upload(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Do nothing: all machines see the directory."""

    def fetch(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Do nothing: all machines see the directory."""

    def let_go(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Do nothing: the files are the only copies."""

    def forget(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry] = ()) -> int:
        """Delete files; files of equal content are separate files."""
        return self._remove(stage, entries)

    def forget_once(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry]) -> int:
        """Delete files; deleting absent files costs nothing."""
        return self._remove(stage, entries)

    def forget_folder(self, name: str) -> int:
        """Delete the folder."""
        freed = directory_bytes(self._root / name)
        shutil.rmtree(self._root / name, ignore_errors=True)
        return freed

    def kept_bytes(self, name: str) -> int:
        """Add up the bytes of its files."""
        return directory_bytes(self._root / name)

    def verify(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Compare the hashes of the files."""
        verify_files(self._root / stage.value, entries)

    def settle(self, name: str, data: bytes) -> bytes:
        """Replace the file: the files that it names are replaced too."""
        self.objects.write(name, data)
        return data


class ByHash(RunStore):
    """Storage by URL; the directory is scratch space of this machine.

    Args:
        root: The directory.
        objects: Objects of the job.
    """

    def __init__(self, root: Path, objects: Objects) -> None:
        super().__init__(root)
        self.objects = objects
        self.events = Journal(objects.below("events"))
        generate = objects.below(Stage.GENERATE.value)
        self.shards = ShardPlace(f"{Stage.GENERATE.value}/shards", compact, Journal(generate.below("journal")))
        self._blobs = Blobs(objects.below("files"))

    def upload(self, stage: Stage, entries: Iterable[FileEntry]) -> tuple[FileEntry, ...]:
        """Upload each file under its hash."""
        known = tuple(entries)
        self._blobs.upload(self._root / stage.value, known)
        return known

    def fetch(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Download the files that are absent here, and check them."""
        self._blobs.fetch(self._root / stage.value, entries)

    def let_go(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Delete this machine's copies."""
        self._remove(stage, entries)

    def forget(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry] = ()) -> int:
        """Delete copies and content; content that another file shares is kept."""
        known, kept = tuple(entries), {entry.sha256 for entry in keep}
        self._remove(stage, known)
        gone = [entry for entry in known if entry.sha256 not in kept]
        self._blobs.delete(gone)
        return sum(entry.size_bytes for entry in gone)

    def forget_once(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry]) -> int:
        """Delete the files and record that it was done, because deleting absent objects costs requests each time."""
        if self.objects.read(Forgotten.FILE) is not None:
            self._remove(stage, entries)
            return 0
        freed = self.forget(stage, entries, keep=keep)
        self.objects.write(Forgotten.FILE, encoded(Forgotten(freed_bytes=freed)))
        return freed

    def forget_folder(self, name: str) -> int:
        """Delete the objects, and this machine's copies."""
        shutil.rmtree(self._root / name, ignore_errors=True)
        self.objects.delete(_keys_below(self.objects, name))
        return 0

    def kept_bytes(self, name: str) -> None:
        """Return None: the size is unknown."""

    def verify(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Do nothing: a file's name is its hash, and `fetch` checks it when the file is needed."""

    def settle(self, name: str, data: bytes) -> bytes:
        """Write the file unless it exists; the first one counts. An attempt that was believed dead may write the same
        file at the same time elsewhere, and later stages were made from the first one.
        """
        return data if self.objects.create(name, data) else self.objects.read(name) or data


def _keys_below(objects: Objects, name: str) -> list[str]:
    """List the keys of all objects below a folder; a name without objects below it is an object itself."""
    below = objects.children(name)
    keys = [f"{name}/{child}".lstrip("/") for child in below]
    return [inner for key in keys for inner in (_keys_below(objects, key) or [key])]
