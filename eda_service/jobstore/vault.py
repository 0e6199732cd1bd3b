"""Secrets at rest: what the database holds of them is sealed under keys that are not in the database.

Fernet (https://github.com/fernet/spec): AES-128-CBC and HMAC-SHA256, so a sealed text that was changed does not open.
The first key seals, every key opens: a new one is put in front of the old, which stays for what it has sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from eda_service.errors import EdaError, InputError

_PREFIX = "fernet:"


class SealedSecretError(EdaError):
    """A secret that the keys of this process do not open."""

    code = "artifact_corrupt"


class Vault(Protocol):
    """Seals and opens texts."""

    def seal(self, text: str) -> str:
        """The text as it may lie in a database."""

    def open(self, text: str) -> str:
        """The text that was sealed.

        Raises:
            SealedSecretError: None of the keys opens it.
        """


class FernetVault:
    """A vault of one or more keys.

    Args:
        keys: Each 32 bytes in URL-safe base64, as `new_key` makes them; the first one seals.

    Raises:
        InputError: There is none, or one that is no such key.
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
        """The text under the first key, with a prefix that says so."""
        return _PREFIX + self._keys.encrypt(text.encode("utf-8")).decode("ascii")

    def open(self, text: str) -> str:
        """The text that was sealed under any of the keys.

        Raises:
            SealedSecretError: None of them opens it.
        """
        try:
            return self._keys.decrypt(text.removeprefix(_PREFIX).encode("utf-8")).decode("utf-8")
        except InvalidToken as error:
            raise SealedSecretError(
                "its secret cannot be opened with the keys that this service has; "
                "give it the key back (EDA_SECRETS_KEY, or secrets/webhooks.key under its home)"
            ) from error


def require_vault(vault: Vault | None) -> Vault:
    """The vault of a store that has one.

    Raises:
        InputError: It has none.
    """
    if vault is None:
        raise InputError("this process has no keys for secrets, so it stores none", param="webhook.secret")
    return vault


def is_sealed(text: str) -> bool:
    """Whether a text is a sealed one; what was stored by versions before is not."""
    return text.startswith(_PREFIX)


def new_key() -> str:
    """A key."""
    return Fernet.generate_key().decode("ascii")
