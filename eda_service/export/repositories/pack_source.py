"""Sources of a pack: a directory, or a repository on the hub at a commit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from eda_service.errors import InputError
from eda_service.names import is_model_id
from eda_service.regular_files import open_regular

_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0


class PackSource(Protocol):
    """The files of a pack by name."""

    @property
    def label(self) -> str:
        """Name of the source in manifests: a directory, or id@commit."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Announced size of every file in bytes."""

    def read(self, file: str) -> Iterator[bytes]:
        """Read a file's bytes."""


class DirectorySource:
    """A directory of this machine. Links cannot lead out of it, as only regular files in it are listed.

    Args:
        directory: Path of the directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, self.label = directory, str(directory)
        with os.scandir(directory) as found:
            self.sizes: Mapping[str, int] = {
                each.name: each.stat(follow_symlinks=False).st_size
                for each in found
                if each.is_file(follow_symlinks=False)
            }

    def read(self, file: str) -> Iterator[bytes]:
        """See `PackSource`."""
        with open_regular(self._directory / file) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk


class HubSource:
    """A repository on the hub.

    Args:
        name: Repository as owner/name.
        revision: Branch, tag or commit; None: the main branch. All files are read at one commit.

    Raises:
        InputError: The hub does not have the repository, or cannot be asked.
    """

    def __init__(self, name: str, revision: str | None) -> None:
        from eda_service.drafts.hub_files import list_files

        found = list_files(name, revision)
        if found is None:
            at = "" if revision is None else f" at {revision[:96]!r}"
            raise InputError(
                f"the model hub has no {name!r}{at}, your token may not read it, or it cannot be reached; check the "
                "name, `hf auth login`, HF_ENDPOINT and the network",
                param="repo",
            )
        if not _COMMIT.fullmatch(found.commit):
            raise InputError(f"the model hub says no commit of {name!r}; check HF_ENDPOINT", param="repo")
        self._name, self._commit, self.sizes = name, found.commit, found.sizes
        self.label = f"{name}@{found.commit}"

    def read(self, file: str) -> Iterator[bytes]:
        """See `PackSource`."""
        import httpx
        from huggingface_hub import get_session, get_token, hf_hub_url

        url = hf_hub_url(self._name, file, revision=self._commit)
        token = get_token()
        headers = {"accept-encoding": "identity"} | ({} if token is None else {"authorization": f"Bearer {token}"})
        options: dict[str, Any] = {"headers": headers, "timeout": _TIMEOUT_S, "follow_redirects": True}
        try:
            with get_session().stream("GET", url, **options) as answer:
                answer.raise_for_status()
                yield from answer.iter_bytes(_CHUNK_BYTES)
        except httpx.HTTPError as error:
            raise InputError(
                f"{file} of {self.label} cannot be fetched: {type(error).__name__}: {str(error)[:200]}; try again",
                param="repo",
            ) from error


def find_source(repo: str, revision: str | None = None) -> PackSource:
    """Find the source that a text names: a directory (with `/`, `./` or `~` before it), or owner/name on the hub.

    Raises:
        InputError: The text names neither.
    """
    path = Path(os.path.expanduser(repo))
    if repo.startswith(("/", "./", "../", "~")):
        if not path.is_dir():
            raise InputError(f"{repo[:200]!r} is no directory here; check its name", param="repo")
        if revision is not None:
            raise InputError("--revision is of a repository on the hub, and a directory is named", param="revision")
        return DirectorySource(path.absolute())
    if not (is_model_id(repo) and "/" in repo):
        raise InputError(
            f"{repo[:96]!r} is no repository; write owner/name for one on the hub, ./name for a directory", param="repo"
        )
    return HubSource(repo, revision)
