"""The place of this process's state; only this module decides between `EDA_HOME` and `EDA_STORAGE`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from eda_service.storage.objects import DirectoryObjects, Objects, ObjectStore, open_storage, storage_url
from eda_service.storage.published.version_store import DirectoryVersionStore, ObjectVersionStore, VersionStore
from eda_service.storage.runs.run_store import ByHash, InPlace, RunStore


class StatePlace(Protocol):
    """The stores of all kinds of state.

    Attributes:
        listing_interval_s: Seconds between two listings that are worth their cost.
    """

    listing_interval_s: float

    def objects(self, home: Path) -> Objects:
        """Return all state, by keys that are paths below the home."""

    def run(self, root: Path) -> RunStore:
        """Return the files of the job with this run directory."""

    def version_store(self, kind: str, home: Path) -> VersionStore:
        """Return the published `packs` or `drafts`."""

    def free_bytes(self, home: Path) -> int | None:
        """Return the free space for a job's files in bytes; None: it depends on the machines that will run the job."""


class OnDisk:
    """All state is under the home."""

    listing_interval_s = 0.0

    def objects(self, home: Path) -> Objects:
        """Return the home's files."""
        return DirectoryObjects(home)

    def run(self, root: Path) -> RunStore:
        """Return the directory itself."""
        return InPlace(root)

    def version_store(self, kind: str, home: Path) -> VersionStore:
        """Return the versions in a directory of the home."""
        return DirectoryVersionStore(home, kind)

    def free_bytes(self, home: Path) -> int:
        """Return the free bytes of the home's disk."""
        home.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(home).free


class OnStorage:
    """All state is on storage by URL; the home is scratch space.

    Args:
        storage: Storage by URL.
    """

    listing_interval_s = 15.0

    def __init__(self, storage: ObjectStore) -> None:
        self._storage = storage

    def objects(self, home: Path) -> Objects:
        """Return all objects of the storage, whatever the home."""
        return self._storage

    def run(self, root: Path) -> RunStore:
        """Return the objects below `runs/<job>/`."""
        return ByHash(root, self._storage.below(f"runs/{root.name}"))

    def version_store(self, kind: str, home: Path) -> VersionStore:
        """Return the versions below `packs/` or `drafts/`, with copies in the home."""
        return ObjectVersionStore(self._storage, kind, home / "cache")

    def free_bytes(self, home: Path) -> None:
        """Return None: the free space is unknown before the job runs."""
        return


def current_place() -> StatePlace:
    """Return the storage of `EDA_STORAGE` if it is set, else the directory `EDA_HOME`.

    Raises:
        InputError: The variable names a storage that cannot be opened.
    """
    url = storage_url()
    return OnStorage(open_storage(url)) if url else OnDisk()
