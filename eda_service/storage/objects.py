"""Objects: content by key, written whole or not at all, created on the condition that it is not there.

That is all this project asks of a store, and two things give it: a directory of this machine, flushed to the disk at
each write, and a bucket (`s3://`, `gs://`) or a shared directory (`file://`, a path) through obstore. Everything else
about state is written once above them; nothing is renamed, and a listing of a bucket is a hint which nothing that must
be complete depends on (ADR 0020).

Credentials come from where the provider's own tools look (environment, instance role, workload identity), never from
the URL.
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
_AT_ONCE = 32  # requests in flight when many small objects are read or deleted


class Objects(Hashable, Protocol):
    """Objects by key; parts of a key are separated by `/`."""

    def read(self, key: str) -> bytes | None:
        """An object's content; None when it is not there."""

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """`read` of each."""

    def write(self, key: str, data: bytes) -> None:
        """Put an object in place of what is there; readers see one or the other."""

    def create(self, key: str, data: bytes, *, private: bool = False) -> bool:
        """Put an object unless there is one; whether it was put. Of several at once exactly one puts.

        Args:
            key: Its key.
            data: Its content.
            private: No other user of the machine may read it; in a bucket, its own policy says who may.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are none the less gone."""

    def children(self, prefix: str) -> list[str]:
        """Names directly below a prefix, sorted; of a bucket, as it lists them now: a hint."""

    def put_file(self, key: str, path: Path) -> None:
        """Put a file's content; nothing is visible before all of it is there. A file in its place stays as it is."""

    def get_file(self, key: str, path: Path) -> bool:
        """Copy an object over `path`, which then has all of it; False when it is not there."""

    def below(self, prefix: str) -> Objects:
        """The objects below a prefix, by the rest of their keys."""

    def address(self, key: str) -> str:
        """Where an object is: a URL, or the path of a file."""


class DirectoryObjects:
    """Files below a directory that all who read them see.

    Args:
        root: The directory; it is made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str) -> bytes | None:
        """A file's content; None when it is not there."""
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """`read` of each."""
        return [self.read(key) for key in keys]

    def write(self, key: str, data: bytes) -> None:
        """Replace a file, atomically and flushed."""
        write_bytes(self.root / key, data)

    def create(self, key: str, data: bytes, *, private: bool = False) -> bool:
        """Write a file unless it is there, whole and flushed; whether it was written."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return claim_file(path, data, mode=0o600 if private else 0o666)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete files, if they are there."""
        for key in keys:
            (self.root / key).unlink(missing_ok=True)

    def children(self, prefix: str) -> list[str]:
        """Names in a directory, sorted, without files that are being written."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(name for name in os.listdir(self.root / prefix) if not is_temporary(name))
        return []

    def put_file(self, key: str, path: Path) -> None:
        """Copy a file to its place, unless that is where it lies."""
        if path != self.root / key:
            _copy_whole(path, self.root / key)

    def get_file(self, key: str, path: Path) -> bool:
        """Copy a file from its place, unless that is where it is wanted; False when it is not there."""
        source = self.root / key
        if not source.is_file():
            return False
        if path != source:
            _copy_whole(source, path)
        return True

    def below(self, prefix: str) -> DirectoryObjects:
        """A directory in it."""
        return DirectoryObjects(self.root / prefix)

    def address(self, key: str) -> str:
        """A file's path."""
        return str(self.root / key)


class ObjectStore:
    """Objects of a store that obstore speaks to.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///directory`, or an absolute path.
        prefix: Of all keys, below the URL.

    Raises:
        InputError: Not such a URL, or the extra `storage` is not installed.
    """

    def __init__(self, url: str, prefix: str = "") -> None:
        self.url, self._prefix = _checked(url), prefix
        self._store = _open(self.url)

    def read(self, key: str) -> bytes | None:
        """An object's content; None when it is not there."""
        import obstore

        try:
            with _translated(self.url):
                return bytes(obstore.get(self._store, self._key(key)).bytes())
        except _MissingError:
            return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """`read` of each, many at once."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.read, keys))

    def write(self, key: str, data: bytes) -> None:
        """Put an object in place of what is there; readers see one or the other."""
        import obstore

        with _translated(self.url):
            obstore.put(self._store, self._key(key), data)

    def create(self, key: str, data: bytes, *, private: bool = False) -> bool:
        """Put an object unless there is one; whether it was put."""
        import obstore

        with _translated(self.url):
            try:
                obstore.put(self._store, self._key(key), data, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are none the less gone."""
        import obstore

        def one(key: str) -> None:  # of several in one call, a directory would stop at the first that is not there
            with contextlib.suppress(_MissingError), _translated(self.url):
                obstore.delete(self._store, self._key(key))

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(one, keys))

    def children(self, prefix: str) -> list[str]:
        """Names directly below a prefix, sorted, as the store lists them now."""
        import obstore

        whole = self._key(prefix)
        with _translated(self.url):
            listed = obstore.list_with_delimiter(self._store, whole)
        paths = [*listed["common_prefixes"], *(str(entry["path"]) for entry in listed["objects"])]
        # Some clients (Ray Train's) make an object for the prefix itself, as if it were a directory.
        below = {path.strip("/") for path in paths} - {whole.strip("/")}
        return sorted(path.rsplit("/", 1)[-1] for path in below)

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file; nothing is visible before all of it is there."""
        import obstore

        with _translated(self.url):
            obstore.put(self._store, self._key(key), path)

    def get_file(self, key: str, path: Path) -> bool:
        """Download an object over `path`, which then has all of it; False when it is not there."""
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
        """The objects below a prefix."""
        return ObjectStore(self.url, self._key(prefix))

    def address(self, key: str) -> str:
        """An object's URL; on a shared directory, its path."""
        return f"{self.url.removeprefix('file://')}/{self._key(key)}"

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self._prefix, key) if part)


def storage_url() -> str:
    """Storage by URL as `EDA_STORAGE` names it; empty: all state lies under `EDA_HOME`."""
    return Environment.read().storage


def storage_env() -> dict[str, str]:
    """The variable, for the environment of a job; empty without one. It holds no secret."""
    url = storage_url()
    return {VARIABLE: url} if url else {}


@cache
def open_storage(url: str) -> ObjectStore:
    """The store behind a URL, one in each process.

    Raises:
        InputError: It names none that can be opened.
    """
    return ObjectStore(url)


class _MissingError(StorageError):
    """There is no such object; or, when one was written, no such bucket."""


def _checked(url: str) -> str:
    """The URL in one form.

    Raises:
        InputError: A scheme that is not known, no bucket, or credentials inside.
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
    """The library's errors as ours."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise _MissingError(f"storage {url} has no such bucket, or no such object") from error
    except (BaseError, PermissionError) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise StorageError(f"storage {url} does not work: {type(error).__name__}: {first}") from error


def _copy_whole(source: Path, destination: Path) -> None:
    """A copy that is flushed, and seen when all of it is there."""
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
