"""Where the state of this process's service lies: the one place that decides between `EDA_HOME` and `EDA_STORAGE`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from eda_service.storage.objects import DirectoryObjects, Objects, ObjectStore, open_storage, storage_url
from eda_service.storage.published.version_store import DirectoryVersionStore, ObjectVersionStore, VersionStore
from eda_service.storage.runs.run_store import ByHash, InPlace, RunStore


class StatePlace(Protocol):
    """What there is of each kind.

    Attributes:
        listing_interval_s: How often it is worth while to list what there is.
    """

    listing_interval_s: float

    def objects(self, home: Path) -> Objects:
        """All state, by keys that are paths below the home."""

    def run(self, root: Path) -> RunStore:
        """The files of a job whose run directory this is."""

    def version_store(self, kind: str, home: Path) -> VersionStore:
        """`packs` or `drafts`."""

    def free_bytes(self, home: Path) -> int | None:
        """Free space for a job's files; None: it is that of the machines which will run it."""


class OnDisk:
    """All state is under the home."""

    listing_interval_s = 0.0

    def objects(self, home: Path) -> Objects:
        """The home's files."""
        return DirectoryObjects(home)

    def run(self, root: Path) -> RunStore:
        """The directory itself."""
        return InPlace(root)

    def version_store(self, kind: str, home: Path) -> VersionStore:
        """A directory of the home."""
        return DirectoryVersionStore(home, kind)

    def free_bytes(self, home: Path) -> int:
        """The home's disk."""
        home.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(home).free


class OnStorage:
    """All state is on storage by URL; the home is scratch space.

    Args:
        storage: It.
    """

    listing_interval_s = 15.0

    def __init__(self, storage: ObjectStore) -> None:
        self._storage = storage

    def objects(self, home: Path) -> Objects:
        """All of the storage, whatever the home."""
        return self._storage

    def run(self, root: Path) -> RunStore:
        """Below `runs/<job>/`."""
        return ByHash(root, self._storage.below(f"runs/{root.name}"))

    def version_store(self, kind: str, home: Path) -> VersionStore:
        """Below `packs/` or `drafts/`, with copies in the home."""
        return ObjectVersionStore(self._storage, kind, home / "cache")

    def free_bytes(self, home: Path) -> None:
        """Nobody knows before the job runs."""
        return


def current_place() -> StatePlace:
    """Where `EDA_STORAGE` says, else under `EDA_HOME`.

    Raises:
        InputError: It names a storage that cannot be opened.
    """
    url = storage_url()
    return OnStorage(open_storage(url)) if url else OnDisk()
