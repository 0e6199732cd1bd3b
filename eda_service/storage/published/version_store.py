"""Stores of published packs and base drafts by name and version: a directory of this machine, or storage by URL.

    <root>/<name>/<version>/            files and manifest.json, renamed into place together
    <root>/<name>/.<version>.job        the job that has reserved the number
    <root>/<name>/.evaluation-<key>.json  prompts that all versions are measured on (`fixed_evaluation`), in no version

On storage, below `packs/` or `drafts/`:

    <name>/files/<sha256>               content, uploaded first
    <name>/<version>.json               the manifest, created last and once: with it the version exists
    <name>/<version>.job                the job that has reserved the number
    <name>/evaluation-<key>.json        prompts that all versions are measured on

Fetched versions are copied to `<home>/cache/<sha256 of the manifest>/<name>/<version>/`. The manifest names every file
by its hash, so a copy stays valid, whatever storage this home uses later.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from eda_service.errors import ArtifactCorruptError, NotFoundError
from eda_service.records import FileEntry
from eda_service.storage.blobs import Blobs
from eda_service.storage.files import publish_dir, sha256_text, write_bytes
from eda_service.storage.objects import DirectoryObjects, Objects

MANIFEST = "manifest.json"
_STAGING, _HIDDEN, _DELETED = ".staging-", ".hidden-", ".deleted-"
_HIDDEN_S = 3600.0
"""Seconds after which a hidden version is restored or removed by others, because the process that hid it was killed."""


@dataclass(frozen=True)
class Hidden:
    """A version that was hidden: readers no longer find it.

    Attributes:
        remove: Function that deletes it permanently.
        restore: Function that makes it visible again.
    """

    remove: Callable[[], None]
    restore: Callable[[], None]


class VersionStore(ABC):
    """A store of versions by name. A version is complete or absent.

    Args:
        objects: Objects of the store.
        kind: `packs` or `drafts`.
        mark: Prefix of the names of files that are beside the versions and are none.
    """

    def __init__(self, objects: Objects, kind: str, mark: str) -> None:
        self._objects, self._kind, self._mark = objects, kind, mark

    @abstractmethod
    def versions(self, name: str) -> list[int]:
        """List the versions of a name, ascending."""

    @abstractmethod
    def manifest(self, name: str, version: int) -> str:
        """Read a version's manifest, as written.

        Raises:
            NotFoundError: The version was removed since it was listed.
        """

    @abstractmethod
    def directory(self, name: str, version: int) -> Path:
        """Return the directory of a version's files on this machine."""

    @abstractmethod
    def file(self, name: str, version: int, file: str) -> Path:
        """Return the path of one of a version's files on this machine."""

    @abstractmethod
    def staging(self, name: str, version: int) -> Path:
        """Make an empty directory to prepare a version in."""

    @abstractmethod
    def publish(self, staging: Path, name: str, version: int) -> Path:
        """Make a prepared version, manifest included, visible, whole and once; return its directory."""

    @abstractmethod
    def hide(self, name: str, version: int) -> Hidden:
        """Make a version invisible at once, until it is removed or restored. The record of the job that reserved its
        number is kept.
        """

    @abstractmethod
    def forget_staging(self, name: str, job_id: str) -> None:
        """Remove what a job that has ended left of a version that it was preparing."""

    def all(self) -> list[tuple[str, int]]:
        """List every version of every name: one listing of names, and one of each name."""
        return [(name, version) for name in self._objects.children(self._kind) for version in self.versions(name)]

    def names(self) -> list[str]:
        """List the names with a version."""
        return [name for name in self._objects.children(self._kind) if self.versions(name)]

    def job_id(self, name: str, version: int) -> str | None:
        """Return the id of the job that has reserved a version."""
        data = self._objects.read(self._claim(name, version))
        return None if data is None else data.decode("utf-8") or None

    def claim(self, name: str, version: int, job_id: str) -> bool:
        """Reserve a number for a job; return whether the job has it now."""
        created = self._objects.create(self._claim(name, version), job_id.encode("utf-8"))
        return created or self.job_id(name, version) == job_id

    def evaluation(self, name: str, key: str) -> str | None:
        """Return a fixed evaluation of a name; None without one."""
        data = self._objects.read(self._evaluation(name, key))
        return None if data is None else data.decode("utf-8")

    def create_evaluation(self, name: str, key: str, text: str) -> bool:
        """Store a fixed evaluation unless there is one, readable by the service's user only; return whether it was
        stored.
        """
        return self._objects.create(self._evaluation(name, key), text.encode("utf-8"), private=True)

    def _claim(self, name: str, version: int) -> str:
        return f"{self._kind}/{name}/{self._mark}{version}.job"

    def _evaluation(self, name: str, key: str) -> str:
        return f"{self._kind}/{name}/{self._mark}evaluation-{key}.json"


class DirectoryVersionStore(VersionStore):
    """Versions in a directory of this machine.

    Args:
        root: Parent directory.
        kind: Name of the directory.
    """

    def __init__(self, root: Path, kind: str) -> None:
        super().__init__(DirectoryObjects(root), kind, ".")
        self._root = root / kind

    def versions(self, name: str) -> list[int]:
        """List the versions of a name, ascending."""
        found = self._objects.children(f"{self._kind}/{name}")
        return sorted(int(each) for each in found if each.isdigit() and _is_whole(self._root / name / each))

    def manifest(self, name: str, version: int) -> str:
        """Read a version's manifest, as written."""
        path = self.directory(name, version) / MANIFEST
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise NotFoundError(f"{path} is not there", param="pack") from error

    def directory(self, name: str, version: int) -> Path:
        """Return the directory of a version's files."""
        return self._root / name / str(version)

    def file(self, name: str, version: int, file: str) -> Path:
        """Return the path of one of a version's files."""
        return self.directory(name, version) / file

    def staging(self, name: str, version: int) -> Path:
        """Make an empty directory beside the version's place; remove what a killed attempt left there."""
        return _emptied(self._root / name / f"{_STAGING}{version}")

    def forget_staging(self, name: str, job_id: str) -> None:
        """See `VersionStore`."""
        for left in (self._root / name).glob(f"{_STAGING}*"):
            number = left.name.removeprefix(_STAGING)
            if number.isdigit() and self.job_id(name, int(number)) == job_id:
                shutil.rmtree(left, ignore_errors=True)

    def publish(self, staging: Path, name: str, version: int) -> Path:
        """Rename the staging directory into place."""
        publish_dir(staging, self.directory(name, version))
        return self.directory(name, version)

    def hide(self, name: str, version: int) -> Hidden:
        """Rename the version out of place; a later call removes what a killed process has left of such a move."""
        beside, place = self._root / name, self.directory(name, version)
        for left in beside.glob(f"{_DELETED}*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in beside.glob(f"{_HIDDEN}*"):
            if time.time() - left.stat().st_mtime > _HIDDEN_S:
                shutil.rmtree(left, ignore_errors=True)
        hidden, deleted = beside / f"{_HIDDEN}{version}", beside / f"{_DELETED}{version}"
        try:
            os.utime(place)  # time at which it was hidden
            os.rename(place, hidden)
        except FileNotFoundError:  # it is gone, or another process has just hidden it, and decides
            return Hidden(remove=lambda: None, restore=lambda: None)

        def remove() -> None:
            os.rename(hidden, deleted)
            shutil.rmtree(deleted, ignore_errors=True)

        return Hidden(remove, restore=lambda: os.rename(hidden, place))


class ObjectVersionStore(VersionStore):
    """Versions on storage by URL.

    Args:
        objects: Objects of the storage.
        kind: Prefix of all keys.
        cache: Directory for copies on this machine.
    """

    def __init__(self, objects: Objects, kind: str, cache: Path) -> None:
        super().__init__(objects, kind, "")
        self._cache = cache

    def versions(self, name: str) -> list[int]:
        """List the versions of a name, ascending. A listing that lags shows fewer; the listed ones are complete."""
        found = self._objects.children(f"{self._kind}/{name}")
        stems = [each.removesuffix(".json") for each in found if each.endswith(".json")]
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def manifest(self, name: str, version: int) -> str:
        """Read a version's manifest, as written; it does not change, so it is read once."""
        return _manifest_at(self._objects, self._manifest(name, version))

    def directory(self, name: str, version: int) -> Path:
        """Return the directory of a version's files, fetched if they are not in the cache.

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
            self._blobs(name).fetch(staging, _files_of(text, self._manifest(name, version)))
            write_bytes(staging / MANIFEST, text.encode("utf-8"))
            publish_dir(staging, place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return place

    def file(self, name: str, version: int, file: str) -> Path:
        """Return one of a version's files, fetched alone if the version is not in the cache.

        Raises:
            ArtifactCorruptError: The manifest does not parse, or the file is missing on storage.
        """
        text = self.manifest(name, version)
        place = self._cache / sha256_text(text) / name / str(version)
        if _is_whole(place):
            return place / file
        part = self._cache / f"part-{sha256_text(text)}" / name / str(version)
        entries = _files_of(text, self._manifest(name, version))
        self._blobs(name).fetch(part, [entry for entry in entries if entry.path == file])
        return part / file

    def forget_staging(self, name: str, job_id: str) -> None:
        """Do nothing: a version is prepared on the machine that publishes it, not on storage."""

    def staging(self, name: str, version: int) -> Path:
        """Make an empty directory of this process."""
        self._cache.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".staging-{name}-{version}-", dir=self._cache))

    def publish(self, staging: Path, name: str, version: int) -> Path:
        """Upload the files, then create the manifest; an existing one is kept."""
        text = (staging / MANIFEST).read_text(encoding="utf-8")
        self._blobs(name).upload(staging, _files_of(text, str(staging)))
        self._objects.create(self._manifest(name, version), text.encode("utf-8"))
        shutil.rmtree(staging)
        return self.directory(name, version)

    def hide(self, name: str, version: int) -> Hidden:
        """Delete the manifest. Content stays under its hash: another version may share it, or be uploading it now."""
        key = self._manifest(name, version)
        written = self._objects.read(key)
        self._objects.delete([key])

        def restore() -> None:
            if written is not None:
                self._objects.create(key, written)

        return Hidden(remove=lambda: None, restore=restore)

    def _manifest(self, name: str, version: int) -> str:
        return f"{self._kind}/{name}/{version}.json"

    def _blobs(self, name: str) -> Blobs:
        return Blobs(self._objects.below(f"{self._kind}/{name}/files"))


@lru_cache(maxsize=4096)
def _manifest_at(objects: Objects, key: str) -> str:
    data = objects.read(key)
    if data is None:
        raise NotFoundError(f"{objects.address(key)} is not there", param="pack")
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
