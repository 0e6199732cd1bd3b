"""Where packs and base drafts lie, by name and version: a directory of this machine, or storage by URL.

    <root>/<name>/<version>/            files and manifest.json, renamed into place together
    <root>/<name>/.<version>.job        the job that has reserved the number
    <root>/<name>/.evaluation-<key>.json  prompts that all versions are measured on (`fixed_evaluation`); part of none

On storage, below `packs/` or `drafts/`:

    <name>/files/<sha256>               content, uploaded first
    <name>/<version>.json               the manifest, created last and once: with it the version is there
    <name>/<version>.job                as above
    <name>/evaluation-<key>.json        as above

and a copy of what was asked for under `<home>/cache/<sha256 of the manifest>/<name>/<version>/`. The manifest names
everything by hash, so a copy is right for ever, whatever storage this home is pointed at next.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from eda_service.errors import ArtifactCorruptError, NotFoundError
from eda_service.records import FileEntry
from eda_service.storage.blobs import Blobs
from eda_service.storage.files import claim_file, publish_dir, sha256_text, write_bytes
from eda_service.storage.objects import Storage

MANIFEST = "manifest.json"


class Shelf(Protocol):
    """Versions by name. A version is complete, or it is not there."""

    def names(self) -> list[str]:
        """Names with a version."""

    def versions(self, name: str) -> list[int]:
        """Versions of a name, ascending."""

    def manifest(self, name: str, version: int) -> str:
        """A version's manifest, as written."""

    def directory(self, name: str, version: int) -> Path:
        """A version's files on this machine."""

    def job_id(self, name: str, version: int) -> str | None:
        """The job that has reserved a version."""

    def claim(self, name: str, version: int, job_id: str) -> bool:
        """Reserve a number for a job; whether it has it now."""

    def evaluation(self, name: str, key: str) -> str | None:
        """A fixed evaluation of a name; None without one."""

    def create_evaluation(self, name: str, key: str, text: str) -> bool:
        """Store a fixed evaluation unless there is one; whether it was stored."""

    def staging(self, name: str, version: int) -> Path:
        """An empty directory to prepare a version in."""

    def publish(self, staging: Path, name: str, version: int) -> Path:
        """Make a prepared version, manifest included, visible, whole and once; returns its directory."""


class DirectoryShelf:
    """A directory.

    Args:
        root: Of all names.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Names with a version."""
        if not self._root.is_dir():
            return []
        return sorted(path.name for path in self._root.iterdir() if self.versions(path.name))

    def versions(self, name: str) -> list[int]:
        """Versions of a name, ascending."""
        directory = self._root / name
        if not directory.is_dir():
            return []
        return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit() and _is_whole(path))

    def manifest(self, name: str, version: int) -> str:
        """A version's manifest, as written."""
        return (self.directory(name, version) / MANIFEST).read_text(encoding="utf-8")

    def directory(self, name: str, version: int) -> Path:
        """A version's files."""
        return self._root / name / str(version)

    def job_id(self, name: str, version: int) -> str | None:
        """The job that has reserved a version."""
        try:
            return self._claim(name, version).read_text(encoding="utf-8") or None
        except OSError:
            return None

    def claim(self, name: str, version: int, job_id: str) -> bool:
        """Reserve a number for a job; whether it has it now."""
        path = self._claim(name, version)
        path.parent.mkdir(parents=True, exist_ok=True)
        return claim_file(path, job_id) or path.read_text(encoding="utf-8") == job_id

    def evaluation(self, name: str, key: str) -> str | None:
        """A fixed evaluation of a name; None without one."""
        try:
            return self._evaluation(name, key).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def create_evaluation(self, name: str, key: str, text: str) -> bool:
        """Store a fixed evaluation unless there is one; whether it was stored. Only this user may read it."""
        path = self._evaluation(name, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return claim_file(path, text, mode=0o600)

    def staging(self, name: str, version: int) -> Path:
        """An empty directory beside the version's place; what a killed attempt left there is removed."""
        return _emptied(self._root / name / f".staging-{version}")

    def publish(self, staging: Path, name: str, version: int) -> Path:
        """Rename into place."""
        publish_dir(staging, self.directory(name, version))
        return self.directory(name, version)

    def _claim(self, name: str, version: int) -> Path:
        return self._root / name / f".{version}.job"

    def _evaluation(self, name: str, key: str) -> Path:
        return self._root / name / f".evaluation-{key}.json"


class StorageShelf:
    """Objects below a prefix.

    Args:
        storage: Where.
        prefix: Of all keys.
        cache: Directory for copies on this machine.
    """

    def __init__(self, storage: Storage, prefix: str, cache: Path) -> None:
        self._storage, self._prefix, self._cache = storage, prefix, cache

    def names(self) -> list[str]:
        """Names with a version."""
        return [name for name in self._storage.children(self._prefix) if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """Versions of a name, ascending. A listing that lags shows fewer; what it shows is whole."""
        stems = [each.removesuffix(".json") for each in self._children(name) if each.endswith(".json")]
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def manifest(self, name: str, version: int) -> str:
        """A version's manifest, as written; it does not change, so it is asked for once."""
        return _manifest(self._storage, f"{self._prefix}/{name}/{version}.json")

    def directory(self, name: str, version: int) -> Path:
        """A version's files, fetched when they are not in the cache.

        Raises:
            ArtifactCorruptError: The manifest does not parse, or a file is missing on storage.
        """
        text = self.manifest(name, version)
        place = self._cache / sha256_text(text) / name / str(version)
        if _is_whole(place):
            return place
        self._cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self._cache))
        try:
            self._blobs(name).fetch(staging, _files_of(text, f"{self._prefix}/{name}/{version}.json"))
            write_bytes(staging / MANIFEST, text.encode("utf-8"))
            publish_dir(staging, place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return place

    def job_id(self, name: str, version: int) -> str | None:
        """The job that has reserved a version."""
        data = self._storage.read(self._claim(name, version))
        return None if data is None else data.decode("utf-8") or None

    def claim(self, name: str, version: int, job_id: str) -> bool:
        """Reserve a number for a job; whether it has it now."""
        created = self._storage.create(self._claim(name, version), job_id.encode("utf-8"))
        return created or self.job_id(name, version) == job_id

    def evaluation(self, name: str, key: str) -> str | None:
        """A fixed evaluation of a name; None without one."""
        data = self._storage.read(self._evaluation(name, key))
        return None if data is None else data.decode("utf-8")

    def create_evaluation(self, name: str, key: str, text: str) -> bool:
        """Store a fixed evaluation unless there is one; whether it was stored."""
        return self._storage.create(self._evaluation(name, key), text.encode("utf-8"))

    def staging(self, name: str, version: int) -> Path:
        """An empty directory of this process."""
        self._cache.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".staging-{name}-{version}-", dir=self._cache))

    def publish(self, staging: Path, name: str, version: int) -> Path:
        """Upload the files, then create the manifest; one that is there already stays."""
        text = (staging / MANIFEST).read_text(encoding="utf-8")
        self._blobs(name).upload(staging, _files_of(text, str(staging)))
        self._storage.create(f"{self._prefix}/{name}/{version}.json", text.encode("utf-8"))
        shutil.rmtree(staging)
        return self.directory(name, version)

    def _blobs(self, name: str) -> Blobs:
        return Blobs(self._storage, f"{self._prefix}/{name}/files")

    def _children(self, name: str) -> list[str]:
        return self._storage.children(f"{self._prefix}/{name}")

    def _claim(self, name: str, version: int) -> str:
        return f"{self._prefix}/{name}/{version}.job"

    def _evaluation(self, name: str, key: str) -> str:
        return f"{self._prefix}/{name}/evaluation-{key}.json"


@lru_cache(maxsize=4096)
def _manifest(storage: Storage, key: str) -> str:
    data = storage.read(key)
    if data is None:
        raise NotFoundError(f"{storage.url}/{key} is not there", param="pack")
    return data.decode("utf-8")


def _files_of(manifest: str, where: str) -> list[FileEntry]:
    try:
        return [FileEntry.model_validate(entry) for entry in json.loads(manifest)["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactCorruptError(f"{where} does not parse: {error}") from error


def _is_whole(directory: Path) -> bool:
    return (directory / MANIFEST).exists()


def _emptied(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
