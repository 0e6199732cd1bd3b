"""The large files of a run directory, between this machine and storage.

Without storage by URL every method does nothing: the directory is where all processes of the job look.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from eda_service.records import FileEntry, Stage
from eda_service.storage.blobs import Blobs
from eda_service.storage.objects import Storage


class RunStore:
    """Files of one job.

    Args:
        root: Its run directory on this machine.
        storage: Where other machines find them; None: this machine is all there is.
    """

    def __init__(self, root: Path, storage: Storage | None) -> None:
        self.storage, self.prefix = storage, f"runs/{root.name}"
        self._root = root
        self._blobs = None if storage is None else Blobs(storage, f"{self.prefix}/files")

    @property
    def is_remote(self) -> bool:
        """Whether other machines see only what is uploaded."""
        return self.storage is not None

    def upload(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Bring files of a stage to storage, before a manifest names them."""
        if self._blobs is not None:
            self._blobs.upload(self._root / stage.value, entries)

    def fetch(self, stage: Stage, entries: Iterable[FileEntry]) -> None:
        """Have files of a stage on this machine.

        Raises:
            ArtifactCorruptError: One is missing on storage, or differs.
        """
        if self._blobs is not None:
            self._blobs.fetch(self._root / stage.value, entries)

    def forget(self, entries: Iterable[FileEntry]) -> None:
        """Delete the content of files from storage."""
        if self._blobs is not None:
            self._blobs.delete(entries)

    def share(self, name: str) -> None:
        """Let other machines see a growing file (a log, a curve) as it is now."""
        path = self._root / name
        if self.storage is not None and path.is_file():
            self.storage.put_file(f"{self.prefix}/{name}", path)

    def shared(self, name: str) -> Path:
        """A growing file as its writer last shared it."""
        if self.storage is not None:
            self.storage.get_file(f"{self.prefix}/{name}", self._root / name)
        return self._root / name
