"""A run directory on one disk that all processes of the job see, or between machines that share storage by URL.

The two differ in what a file's place means. On one disk a stage's files lie at their paths: whoever writes them last
has replaced them, and what is said of them last counts. On storage content lies under its hash, uploaded before
anything names it and fetched by whoever wants it: nothing is replaced, and what is said first counts (ADR 0020). All
that is above this asks for neither.
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
    """Where the results of a generate stage's shards are.

    Attributes:
        folder: One JSON a shard below it.
        encode: How each is written.
        journal: The driver's note of those that it has seen, by the hundred.
    """

    folder: str
    encode: Callable[[BaseModel], bytes]
    journal: Log


class RunStore(ABC):
    """Files of one job.

    Attributes:
        objects: The small ones, by their names below the run directory.
        events: What the job's processes have told.
        shards: Where results of shards are.
    """

    objects: Objects
    events: Log
    shards: ShardPlace

    def __init__(self, root: Path) -> None:
        self._root = root

    @abstractmethod
    def upload(self, stage: Stage, entries: Iterable[FileEntry]) -> tuple[FileEntry, ...] | None:
        """Bring files of a stage where other machines find them, before a manifest names them.

        Returns:
            What they have to be told to find them; None: they look into the same directory.
        """

    @abstractmethod
    def fetch(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Have files of a stage on this machine.

        Raises:
            ArtifactCorruptError: One is missing on storage, or differs.
        """

    @abstractmethod
    def let_go(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Delete this machine's copies of what can be fetched again: it need not hold all at once."""

    @abstractmethod
    def forget(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry] = ()) -> int:
        """Delete files for good; returns the bytes freed.

        Args:
            stage: Whose they are.
            entries: The files.
            keep: Other files, whose content stays where it lies under its hash.
        """

    @abstractmethod
    def forget_once(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry]) -> int:
        """`forget`, of which nothing is left to do when it was done before; returns the bytes freed now."""

    @abstractmethod
    def forget_folder(self, name: str) -> int:
        """Delete everything below a folder of the run directory; returns the bytes freed, 0 where they are not known.

        Args:
            name: The folder, relative to the run directory; empty: all of it.
        """

    @abstractmethod
    def kept_bytes(self, name: str) -> int | None:
        """What a folder of the run directory holds; None: it is on storage, which is not asked."""

    @abstractmethod
    def verify(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Check files that a record names, where `fetch` will not do it.

        Raises:
            ArtifactCorruptError: One is missing, or differs.
        """

    @abstractmethod
    def settle(self, name: str, data: bytes) -> bytes:
        """Say of files that they are complete; returns what counts.

        Args:
            name: Of the small file that says so.
            data: Its content.
        """

    def delete(self) -> int:
        """Delete everything of the job; returns the bytes freed, 0 on storage by URL, where they are not known."""
        self.objects.delete([JobFile.FILE])  # first, so that nobody takes what is left for a job
        return self.forget_folder("")

    def share(self, name: str) -> None:
        """Let other machines see a growing file (a log, a curve) as it is now."""
        if (self._root / name).is_file():
            self.objects.put_file(name, self._root / name)

    def shared(self, name: str) -> Path:
        """A growing file as its writer last shared it."""
        self.objects.get_file(name, self._root / name)
        return self._root / name

    def _remove(self, stage: Stage, entries: Iterable[FileEntry]) -> int:
        """Delete files of this machine; returns how many bytes they had."""
        freed = 0
        for path in (self._root / stage.value / entry.path for entry in entries):
            if path.exists():
                freed += path.stat().st_size
                path.unlink()
        return freed


class InPlace(RunStore):
    """A directory where all processes of the job look.

    Args:
        root: It.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.objects = DirectoryObjects(root)
        self.events = LineFile(root / "events.jsonl")
        self.shards = ShardPlace(Stage.GENERATE.value, encoded, Unwritten())

    def upload(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """They are there."""

    def fetch(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """They are here."""

    def let_go(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """They are all there are."""

    def forget(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry] = ()) -> int:
        """Delete files; another file is another one, whatever its content."""
        return self._remove(stage, entries)

    def forget_once(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry]) -> int:
        """Delete files; those that are gone cost nothing."""
        return self._remove(stage, entries)

    def forget_folder(self, name: str) -> int:
        """Delete the directory."""
        freed = directory_bytes(self._root / name)
        shutil.rmtree(self._root / name, ignore_errors=True)
        return freed

    def kept_bytes(self, name: str) -> int:
        """Count its files."""
        return directory_bytes(self._root / name)

    def verify(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Hash them."""
        verify_files(self._root / stage.value, entries)

    def settle(self, name: str, data: bytes) -> bytes:
        """Replace what was said: the files that it spoke of are replaced too."""
        self.objects.write(name, data)
        return data


class ByHash(RunStore):
    """Storage by URL; the directory is scratch space of this machine.

    Args:
        root: The directory.
        objects: Those of the job.
    """

    def __init__(self, root: Path, objects: Objects) -> None:
        super().__init__(root)
        self.objects = objects
        self.events = Journal(objects.below("events"))
        generate = objects.below(Stage.GENERATE.value)
        self.shards = ShardPlace(f"{Stage.GENERATE.value}/shards", compact, Journal(generate.below("journal")))
        self._blobs = Blobs(objects.below("files"))

    def upload(self, stage: Stage, entries: Iterable[FileEntry]) -> tuple[FileEntry, ...]:
        """Put each under its hash."""
        known = tuple(entries)
        self._blobs.upload(self._root / stage.value, known)
        return known

    def fetch(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Download those that are not here, and check them."""
        self._blobs.fetch(self._root / stage.value, entries)

    def let_go(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Delete the copies."""
        self._remove(stage, entries)

    def forget(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry] = ()) -> int:
        """Delete copies and content; content that another file has stays."""
        known, kept = tuple(entries), {entry.sha256 for entry in keep}
        self._remove(stage, known)
        gone = [entry for entry in known if entry.sha256 not in kept]
        self._blobs.delete(gone)
        return sum(entry.size_bytes for entry in gone)

    def forget_once(self, stage: Stage, entries: Iterable[FileEntry], *, keep: Iterable[FileEntry]) -> int:
        """Delete what is to be deleted, and note that it was: what is gone would be asked for again each time."""
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
        """Not known."""

    def verify(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """A file's name is its hash, and `fetch` checks it when the file is wanted."""

    def settle(self, name: str, data: bytes) -> bytes:
        """What was said first counts: an attempt that was thought dead may say the same at the same time elsewhere,
        and what came after was made from the one that is there.
        """
        return data if self.objects.create(name, data) else self.objects.read(name) or data


def _keys_below(objects: Objects, name: str) -> list[str]:
    """Keys of all objects below a folder; a name that has none below it is an object itself."""
    below = objects.children(name)
    keys = [f"{name}/{child}".lstrip("/") for child in below]
    return [inner for key in keys for inner in (_keys_below(objects, key) or [key])]
