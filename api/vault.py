"""The keys under which this service seals secrets: of the environment, or of a file of its own that is made once."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from api.settings import Settings
from eda_service.jobstore.vault import FernetVault, Vault, new_key
from eda_service.storage.files import claim_file

_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600


class FileVault:
    """A vault whose keys are in a file, one a line or by commas; made with the first secret.

    Args:
        path: Of the file; its directory is for the service's user alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def seal(self, text: str) -> str:
        """The text as it may lie in a database."""
        return self._keys.seal(text)

    def open(self, text: str) -> str:
        """The text that was sealed.

        Raises:
            SealedSecretError: None of the keys opens it.
        """
        return self._keys.open(text)

    @cached_property
    def _keys(self) -> FernetVault:
        directory = self._path.parent
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        os.chmod(directory, _DIRECTORY_MODE)  # before there is anything in it, whatever the umask was
        if not self._path.exists():
            claim_file(self._path, new_key() + "\n")  # of several processes that start at once, one makes it
        os.chmod(self._path, _FILE_MODE)
        return _of_text(self._path.read_text(encoding="utf-8"))


def open_vault(settings: Settings) -> Vault:
    """The vault of one service. API processes that share a database share its keys, by file or by environment.

    Raises:
        InputError: A key of the environment is none.
    """
    if settings.secrets_key:
        return _of_text(settings.secrets_key)
    return FileVault(settings.home / "secrets" / "webhooks.key")


def _of_text(text: str) -> FernetVault:
    return FernetVault([key.strip() for key in text.replace("\n", ",").split(",") if key.strip()])
