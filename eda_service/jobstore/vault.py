"""Secrets at rest: the database stores them sealed, under keys that are not in the database.

Fernet (https://github.com/fernet/spec) uses AES-128-CBC and HMAC-SHA256, so a sealed text that was changed does not
open. The first key seals, every key opens: a new key is put in front of the old one, which stays for the texts it has
sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from eda_service.errors import EdaError, InputError

_PREFIX = "fernet:"


class SealedSecretError(EdaError):
    """A secret cannot be opened with the keys of this process."""

    code = "artifact_corrupt"


class Vault(Protocol):
    """Seals and opens texts."""

    def seal(self, text: str) -> str:
        """Seal a text for storage in a database."""

    def open(self, text: str) -> str:
        """Open a sealed text.

        Raises:
            SealedSecretError: No key opens the text.
        """


class FernetVault:
    """A vault of one or more keys.

    Args:
        keys: Keys, each 32 bytes in URL-safe base64, as `new_key` makes them; the first one seals.

    Raises:
        InputError: The list is empty, or a key is not valid.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            found = [Fernet(key) for key in keys]
        except ValueError:
            found = []
        if not found:
            raise InputError(
                "the keys for secrets are not 32 bytes in URL-safe base64 each; "
                "`python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'` makes one"
            )
        self._keys = MultiFernet(found)

    def seal(self, text: str) -> str:
        """Seal a text under the first key, with a prefix that marks it."""
        return _PREFIX + self._keys.encrypt(text.encode("utf-8")).decode("ascii")

    def open(self, text: str) -> str:
        """Open a text that was sealed under any of the keys.

        Raises:
            SealedSecretError: No key opens the text.
        """
        try:
            return self._keys.decrypt(text.removeprefix(_PREFIX).encode("utf-8")).decode("utf-8")
        except InvalidToken as error:
            raise SealedSecretError(
                "its secret cannot be opened with the keys that this service has; "
                "give it the key back (EDA_SECRETS_KEY, or secrets/webhooks.key under its home)"
            ) from error


def require_vault(vault: Vault | None) -> Vault:
    """Return the vault of a store.

    Raises:
        InputError: The store has no vault.
    """
    if vault is None:
        raise InputError("this process has no keys for secrets, so it stores none", param="webhook.secret")
    return vault


def is_sealed(text: str) -> bool:
    """Whether a text is sealed; texts stored by earlier versions are not."""
    return text.startswith(_PREFIX)


def new_key() -> str:
    """Make a key."""
    return Fernet.generate_key().decode("ascii")
