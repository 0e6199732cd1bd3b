"""Files on storage by the sha256 of their content, and copies of them on this machine.

A key says what is behind it, so a file is never replaced by another one, and two attempts that upload at once cannot
spoil each other's. What a killed process uploaded and no manifest names is never seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eda_service.errors import ArtifactCorruptError
from eda_service.records import FileEntry
from eda_service.storage.files import sha256_file
from eda_service.storage.objects import Objects

_AT_ONCE = 8  # files; each may go in several parts


class Blobs:
    """Content by its hash.

    Args:
        objects: Where; each is below it under its own hash.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def upload(self, root: Path, entries: Iterable[FileEntry]) -> None:
        """Upload files that are under `root`."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda entry: self._objects.put_file(entry.sha256, root / entry.path), entries))

    def fetch(self, root: Path, entries: Iterable[FileEntry]) -> None:
        """Bring files under `root`; those that are there with the right content stay.

        Raises:
            ArtifactCorruptError: One is not on storage, or is not what its manifest says.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda entry: self._fetch(root / entry.path, entry), entries))

    def delete(self, entries: Iterable[FileEntry]) -> None:
        """Delete the content of files."""
        self._objects.delete(sorted({entry.sha256 for entry in entries}))

    def _fetch(self, path: Path, entry: FileEntry) -> None:
        if path.exists() and path.stat().st_size == entry.size_bytes and sha256_file(path) == entry.sha256:
            return
        if not self._objects.get_file(entry.sha256, path):
            raise ArtifactCorruptError(
                f"{entry.path} is named by its manifest, but {self._objects.address(entry.sha256)} is not there; "
                "put it back, or delete the manifest to redo the stage"
            )
        found = sha256_file(path)
        if found != entry.sha256:
            path.unlink()
            raise ArtifactCorruptError(
                f"{self._objects.address(entry.sha256)} has sha256 {found[:12]}; delete it and its manifest"
            )
