"""Files on storage under the sha256 of their content, and copies of them on this machine.

A key determines the content, so a file is never replaced by another one, and two attempts that upload at once cannot
damage each other's files. Uploads of a killed process that no manifest names are never read.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eda_service.errors import ArtifactCorruptError
from eda_service.records import FileEntry
from eda_service.storage.files import sha256_file
from eda_service.storage.objects import Objects

_AT_ONCE = 8  # files at the same time; each may be sent in several parts


class Blobs:
    """Content on storage, by its hash.

    Args:
        objects: Objects below which each file is stored under its own hash.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def upload(self, root: Path, entries: Iterable[FileEntry]) -> None:
        """Upload files that are under `root`."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda entry: self._objects.put_file(entry.sha256, root / entry.path), entries))

    def fetch(self, root: Path, entries: Iterable[FileEntry]) -> None:
        """Fetch files to `root`; existing files with the right content are kept.

        Raises:
            ArtifactCorruptError: A file is not on storage, or differs from its manifest.
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
