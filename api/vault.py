"""The keys under which this service seals secrets: of the environment, or of a file of its own that is made once."""

from __future__ import annotations

import os
from pathlib import Path

from api.settings import Settings
from eda_service.artifacts.files import claim_file
from eda_service.jobstore.vault import FernetVault, new_key

_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600


def open_vault(settings: Settings) -> FernetVault:
    """The vault of one service. API processes that share a database share its keys, by file or by environment.

    Raises:
        InputError: A key is none.
    """
    text = settings.secrets_key or _of_file(settings.home / "secrets" / "webhooks.key")
    return FernetVault([key.strip() for key in text.replace("\n", ",").split(",") if key.strip()])


def _of_file(path: Path) -> str:
    path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    os.chmod(path.parent, _DIRECTORY_MODE)  # before there is anything in it, whatever the umask was
    if not path.exists():
        claim_file(path, new_key() + "\n")  # of several processes that start at once, one makes it
    os.chmod(path, _FILE_MODE)
    return path.read_text(encoding="ascii")
