"""Objects: content by key, written whole or not at all, and created only if absent.

This is all the project needs of a store, and two classes provide it: a directory of this machine, flushed to the disk
at each write, and a bucket (`s3://`, `gs://`) or a shared directory (`file://`, a path) through obstore. All other
state is written above them; nothing is renamed, and nothing that must be complete depends on a bucket's listing (ADR
0020).

Credentials come from the places that the provider's own tools use (environment, instance role, workload identity),
never from the URL.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from eda_service.environment import Environment
from eda_service.errors import InputError, StorageError
from eda_service.storage.files import claim_file, fsync_dir, is_temporary, temporary_name, write_bytes

VARIABLE = "EDA_STORAGE"
_SCHEMES = ("s3", "gs", "file")
_AT_ONCE = 32  # requests at the same time when many small objects are read or deleted


class Objects(Hashable, Protocol):
    """Objects by key; parts of a key are separated by `/`."""

    def read(self, key: str) -> bytes | None:
        """Read an object's content; None if it does not exist."""

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read several objects."""

    def write(self, key: str, data: bytes) -> None:
        """Write an object, replacing an existing one; readers see either the old or the new."""

    def create(self, key: str, data: bytes, *, private: bool = False) -> bool:
        """Create an object unless it exists; return whether it was created. Of several calls at once exactly one
        creates it.

        Args:
            key: Key of the object.
            data: Content of the object.
            private: Whether other users of the machine must not read it; a bucket's own policy decides there.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, if they exist."""

    def children(self, prefix: str) -> list[str]:
        """List the names directly below a prefix, sorted; a bucket's listing may lag behind."""

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file; nothing is visible before it is complete. An existing object is kept."""

    def get_file(self, key: str, path: Path) -> bool:
        """Copy an object over `path`, atomically; return False if the object does not exist."""

    def below(self, prefix: str) -> Objects:
        """Return the objects below a prefix, by the rest of their keys."""

    def address(self, key: str) -> str:
        """Return the place of an object: a URL, or the path of a file."""


class DirectoryObjects:
    """Files below a directory that all readers see.

    Args:
        root: Directory; it is made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str) -> bytes | None:
        """Read a file's content; None if it does not exist."""
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read several files."""
        return [self.read(key) for key in keys]

    def write(self, key: str, data: bytes) -> None:
        """Replace a file, atomically and flushed."""
        write_bytes(self.root / key, data)

    def create(self, key: str, data: bytes, *, private: bool = False) -> bool:
        """Create a file, whole and flushed, unless it exists; return whether it was created."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return claim_file(path, data, mode=0o600 if private else 0o666)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete files, if they exist."""
        for key in keys:
            (self.root / key).unlink(missing_ok=True)

    def children(self, prefix: str) -> list[str]:
        """List the names in a directory, sorted, without files that are being written."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(name for name in os.listdir(self.root / prefix) if not is_temporary(name))
        return []

    def put_file(self, key: str, path: Path) -> None:
        """Copy a file to its place, unless it is there already."""
        if path != self.root / key:
            _copy_whole(path, self.root / key)

    def get_file(self, key: str, path: Path) -> bool:
        """Copy a file from its place, unless it is there already; return False if it does not exist."""
        source = self.root / key
        if not source.is_file():
            return False
        if path != source:
            _copy_whole(source, path)
        return True

    def below(self, prefix: str) -> DirectoryObjects:
        """Return the files of a subdirectory."""
        return DirectoryObjects(self.root / prefix)

    def address(self, key: str) -> str:
        """Return a file's path."""
        return str(self.root / key)


class ObjectStore:
    """Objects of a store that obstore accesses.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///directory`, or an absolute path.
        prefix: Prefix of all keys, below the URL.

    Raises:
        InputError: The URL is not supported, or the extra `storage` is not installed.
    """

    def __init__(self, url: str, prefix: str = "") -> None:
        self.url, self._prefix = _checked(url), prefix
        self._store = _open(self.url)

    def read(self, key: str) -> bytes | None:
        """Read an object's content; None if it does not exist."""
        import obstore

        try:
            with _translated(self.url):
                return bytes(obstore.get(self._store, self._key(key)).bytes())
        except _MissingError:
            return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read several objects at the same time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.read, keys))

    def write(self, key: str, data: bytes) -> None:
        """Write an object, replacing an existing one; readers see either the old or the new."""
        import obstore

        with _translated(self.url):
            obstore.put(self._store, self._key(key), data)

    def create(self, key: str, data: bytes, *, private: bool = False) -> bool:
        """Create an object unless it exists; return whether it was created."""
        import obstore

        with _translated(self.url):
            try:
                obstore.put(self._store, self._key(key), data, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, if they exist."""
        import obstore

        def one(key: str) -> None:  # in one call with several keys, a directory would stop at the first missing one
            with contextlib.suppress(_MissingError), _translated(self.url):
                obstore.delete(self._store, self._key(key))

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(one, keys))

    def children(self, prefix: str) -> list[str]:
        """List the names directly below a prefix, sorted; the store's listing may lag behind."""
        import obstore

        whole = self._key(prefix)
        with _translated(self.url):
            listed = obstore.list_with_delimiter(self._store, whole)
        paths = [*listed["common_prefixes"], *(str(entry["path"]) for entry in listed["objects"])]
        # Some clients (Ray Train's) make an object for the prefix itself, as if it were a directory.
        below = {path.strip("/") for path in paths} - {whole.strip("/")}
        return sorted(path.rsplit("/", 1)[-1] for path in below)

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file; nothing is visible before it is complete."""
        import obstore

        with _translated(self.url):
            obstore.put(self._store, self._key(key), path)

    def get_file(self, key: str, path: Path) -> bool:
        """Download an object over `path`, atomically; return False if the object does not exist."""
        import obstore

        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        try:
            with _translated(self.url), temporary.open("wb") as stream:
                for chunk in obstore.get(self._store, self._key(key)).stream():
                    stream.write(chunk)
            os.replace(temporary, path)
        except _MissingError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def below(self, prefix: str) -> ObjectStore:
        """Return the objects below a prefix."""
        return ObjectStore(self.url, self._key(prefix))

    def address(self, key: str) -> str:
        """Return an object's URL; on a shared directory, its path."""
        return f"{self.url.removeprefix('file://')}/{self._key(key)}"

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self._prefix, key) if part)


def storage_url() -> str:
    """Return the URL of the storage in `EDA_STORAGE`; empty: all state is under `EDA_HOME`."""
    return Environment.read().storage


def storage_env() -> dict[str, str]:
    """Return the variable for the environment of a job; empty without one. It holds no secret."""
    url = storage_url()
    return {VARIABLE: url} if url else {}


@cache
def open_storage(url: str) -> ObjectStore:
    """Open the store behind a URL, once per process.

    Raises:
        InputError: The URL names no store that can be opened.
    """
    return ObjectStore(url)


class _MissingError(StorageError):
    """The object does not exist; or, when one was written, the bucket does not."""


def _checked(url: str) -> str:
    """Check a URL and return it in one form.

    Raises:
        InputError: The scheme is not known, the bucket is missing, or credentials are inside.
    """
    if url.startswith("/"):
        url = Path(url).resolve().as_uri()
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or (parts.scheme != "file" and not parts.netloc):
        raise InputError(
            f"{VARIABLE} is {parts.scheme[:16] or 'no URL'!r}; write s3://bucket/prefix, gs://bucket/prefix or an "
            "absolute path",
            param="storage",
        )
    if "@" in parts.netloc or parts.query:
        raise InputError(
            f"{VARIABLE} holds more than a bucket and a prefix; credentials and endpoints are named by the provider's "
            "own variables (AWS_..., GOOGLE_...)",
            param="storage",
        )
    return url.rstrip("/")


@cache
def _open(url: str) -> Any:
    try:
        from obstore.store import LocalStore, from_url
    except ImportError as error:
        raise InputError(
            f"{VARIABLE} needs the extra `storage`: pip install 'eda-service[storage]'", param="storage"
        ) from error
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStore(parts.path, mkdir=True)
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return from_url(url, client_options={"allow_http": True} if plain else None)


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn the library's errors into ours."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise _MissingError(f"storage {url} has no such bucket, or no such object") from error
    except (BaseError, PermissionError) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise StorageError(f"storage {url} does not work: {type(error).__name__}: {first}") from error


def _copy_whole(source: Path, destination: Path) -> None:
    """Copy a file so that it is flushed, and visible only when complete."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(destination)
    try:
        with source.open("rb") as reading, temporary.open("xb") as writing:
            shutil.copyfileobj(reading, writing)
            writing.flush()
            os.fsync(writing.fileno())
        os.replace(temporary, destination)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(destination.parent)
