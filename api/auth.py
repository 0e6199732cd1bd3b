"""Who calls: bearer keys with scopes. Without any key the service is one person's, on loopback, and all is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from eda_service.addresses import require_loopback
from eda_service.errors import InputError
from eda_service.jobstore import KeyInfo
from eda_service.jobstore.keys import KeyStore
from eda_service.scopes import Scope

LOCAL_OWNER = "local"
_BEARER = "bearer "


class InvalidKeyError(InputError):
    """No key, or one that is unknown, expired or revoked."""

    code = "invalid_api_key"


class InsufficientScopeError(InputError):
    """The key is good, but not for this."""

    code = "insufficient_scope"


@dataclass(frozen=True)
class Caller:
    """Whose request it is.

    Attributes:
        owner: Of the jobs it makes.
        scopes: Of its key.
        key_id: Of its key; None: there are no keys.
        requests_per_minute: The key's own limit at the endpoint; None: the service's.
        concurrent_requests: Likewise.
    """

    owner: str
    scopes: frozenset[str]
    key_id: str | None = None
    requests_per_minute: int | None = None
    concurrent_requests: int | None = None

    @property
    def sees(self) -> str | None:
        """The owner whose objects are visible; None: everybody's."""
        return None if Scope.ADMIN in self.scopes else self.owner


LOCAL = Caller(LOCAL_OWNER, frozenset(Scope))
"""Who calls a service without keys."""


def identify(keys: KeyStore, header: str | None) -> Caller:
    """The caller behind an `Authorization` header.

    Raises:
        InvalidKeyError: There are keys, and the header has no valid one.
    """
    if not keys.exist():
        return LOCAL
    if header is None or not header.lower().startswith(_BEARER):
        raise InvalidKeyError("send `Authorization: Bearer eda_...`; `eda keys create` makes a key")
    return caller_of(keys.check(header[len(_BEARER) :].strip()))


def caller_of(key: KeyInfo | None) -> Caller:
    """The caller whose key was found.

    Raises:
        InvalidKeyError: None was found.
    """
    if key is None:
        raise InvalidKeyError("the key is unknown, expired or revoked; `eda keys create` makes a new one")
    return Caller(key.owner, frozenset(key.scopes), key.id, key.requests_per_minute, key.concurrent_requests)


def require_scope(caller: Caller, *scopes: Scope) -> Caller:
    """The caller, whose key has one of these scopes or is an admin's.

    Raises:
        InsufficientScopeError: It has none of them.
    """
    if not caller.scopes & {*scopes, Scope.ADMIN}:
        wanted = " or ".join(scope.value for scope in scopes)
        raise InsufficientScopeError(f"the key lacks the scope {wanted}; its owner's admin can make another")
    return caller


def require_safe_host(keys: KeyStore, host: str) -> str:
    """An address to listen on: any once there are keys, until then loopback.

    Raises:
        InputError: Anybody on the network could use the service.
    """
    return host if keys.exist() else require_loopback(host)
