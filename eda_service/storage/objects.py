"""Storage by URL: objects under a prefix of a bucket (`s3://`, `gs://`) or of a shared directory (`file://`, a path).

`EDA_STORAGE` names it; without it all state lies under `EDA_HOME` and nothing here is used. Objects are written whole
or not at all, and may be created on the condition that they are not there. That is all this project asks of a store:
nothing is renamed, and a listing is a hint which nothing that must be complete depends on (ADR 0020).

Credentials come from where the provider's own tools look (environment, instance role, workload identity), never from
the URL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eda_service.environment import Environment
from eda_service.errors import InputError, StorageError
from eda_service.storage.files import temporary_name

VARIABLE = "EDA_STORAGE"
_SCHEMES = ("s3", "gs", "file")
_AT_ONCE = 32  # requests in flight when many small objects are read or deleted


class _MissingError(StorageError):
    """There is no such object; or, when one was written, no such bucket."""


class Storage:
    """Objects by key, below one URL.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///directory`, or an absolute path.

    Raises:
        InputError: Not such a URL, or the extra `storage` is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked(url)
        self._store = _open(self.url)

    def read(self, key: str) -> bytes | None:
        """An object's content; None when it is not there."""
        import obstore

        try:
            with _translated(self.url):
                return bytes(obstore.get(self._store, key).bytes())
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
            obstore.put(self._store, key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put. Of several at once exactly one puts."""
        import obstore

        with _translated(self.url):
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file; nothing is visible before all of it is there."""
        import obstore

        with _translated(self.url):
            obstore.put(self._store, key, path)

    def get_file(self, key: str, path: Path) -> bool:
        """Download an object over `path`, which then has all of it; False when it is not there."""
        import obstore

        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        try:
            with _translated(self.url), temporary.open("wb") as stream:
                for chunk in obstore.get(self._store, key).stream():
                    stream.write(chunk)
            os.replace(temporary, path)
        except _MissingError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def children(self, prefix: str) -> list[str]:
        """Names directly below a prefix, sorted, as the store lists them now: a hint."""
        import obstore

        with _translated(self.url):
            listed = obstore.list_with_delimiter(self._store, prefix)
        paths = [*listed["common_prefixes"], *(str(entry["path"]) for entry in listed["objects"])]
        # Some clients (Ray Train's) make an object for the prefix itself, as if it were a directory.
        below = {path.strip("/") for path in paths} - {prefix.strip("/")}
        return sorted(path.rsplit("/", 1)[-1] for path in below)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are none the less gone."""
        import obstore

        def one(key: str) -> None:  # of several in one call, a directory would stop at the first that is not there
            with contextlib.suppress(_MissingError), _translated(self.url):
                obstore.delete(self._store, key)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(one, keys))


def current_storage() -> Storage | None:
    """The storage that `EDA_STORAGE` names for this process; None: state lies under `EDA_HOME`.

    Raises:
        InputError: It names none that can be opened.
    """
    url = Environment.read().storage
    return _opened(url) if url else None


def storage_env() -> dict[str, str]:
    """The variable, for the environment of a job; empty without one. It holds no secret."""
    url = Environment.read().storage
    return {VARIABLE: url} if url else {}


@cache
def _opened(url: str) -> Storage:
    return Storage(url)


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
