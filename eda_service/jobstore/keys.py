"""API keys: `eda_<id>_<secret>`, shown once; the database keeps the sha256 of the secret.

A plain hash is enough: the secret is 256 random bits, so it cannot be guessed from the hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterable

from sqlalchemy import delete, func, or_, select, update

from eda_service.errors import InputError, NotFoundError
from eda_service.jobstore.database import Part
from eda_service.jobstore.jobs.job import KeyInfo
from eda_service.jobstore.models import KeyRow
from eda_service.scopes import Scope

_KEY = re.compile(r"eda_([0-9a-f]{16})_([0-9a-f]{64})")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_USED_GRAIN_S = 60
_MAX_NAME_CHARACTERS = 128
_MAX_LIMIT = 1_000_000


class KeyStore(Part):
    """Makes, lists, revokes and checks keys."""

    def create(
        self,
        owner: str,
        name: str,
        scopes: Iterable[str],
        expires_at: int | None = None,
        *,
        requests_per_minute: int | None = None,
        concurrent_requests: int | None = None,
    ) -> tuple[KeyInfo, str]:
        """Make a key.

        Args:
            owner: Owner of the jobs that the key can see.
            name: Purpose of the key, in the owner's words.
            scopes: Permissions, from `Scope`.
            expires_at: End of validity in seconds since the epoch; None: never.
            requests_per_minute: Limit at the endpoint; None: the service's limit.
            concurrent_requests: Limit of requests at the same time at the endpoint; None: the service's limit.

        Returns:
            The key's facts, and the key itself, which cannot be read again.

        Raises:
            InputError: A name, scope or time is not valid.
        """
        wanted = sorted(set(scopes))
        _require_valid(owner, name, wanted)
        if expires_at is not None and expires_at <= self._now():
            raise InputError(f"expires_at {expires_at} is past (now is {self._now()}); give a later time")
        for limit in (requests_per_minute, concurrent_requests):
            if limit is not None and not 1 <= limit <= _MAX_LIMIT:
                raise InputError(f"a limit is {limit}, allowed are 1 to {_MAX_LIMIT}")
        key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
        row = KeyRow(
            id=key_id,
            owner=owner,
            name=name,
            secret_sha256=_digest(secret),
            scopes=wanted,
            created_at=self._now(),
            expires_at=expires_at,
            requests_per_minute=requests_per_minute,
            concurrent_requests=concurrent_requests,
        )
        with self._write.begin() as session:
            session.add(row)
            session.flush()
            return KeyInfo.model_validate(row), f"eda_{key_id}_{secret}"

    def all(self, owner: str | None = None) -> list[KeyInfo]:
        """List keys, oldest first, with revoked and expired ones, and with the readable part of damaged ones."""
        query = select(KeyRow).order_by(KeyRow.created_at, KeyRow.id)
        if owner is not None:
            query = query.where(KeyRow.owner == owner)
        with self._read() as session:
            return [self._reader.reduced(KeyInfo, row) for row in session.scalars(query)]

    def revoke(self, key_id: str) -> KeyInfo:
        """Make a key invalid from now on; a second call changes nothing.

        Raises:
            NotFoundError: The key does not exist.
        """
        with self._write.begin() as session:
            row = session.get(KeyRow, key_id.replace("\0", ""))
            if row is None:
                raise NotFoundError(f"no key {key_id[:32]!r}; `eda keys ls` shows the ids", param="id")
            row.revoked_at = self._now() if row.revoked_at is None else row.revoked_at
            session.flush()
            return self._reader.reduced(KeyInfo, row)

    def delete_all(self) -> int:
        """Delete every key, so that all clients that reach the service need none; return their number."""
        with self._write.begin() as session:
            num = session.scalar(select(func.count()).select_from(KeyRow)) or 0
            session.execute(delete(KeyRow))
            return int(num)

    def check(self, text: str) -> KeyInfo | None:
        """Return the facts of a key that is valid now, else None."""
        parts = _KEY.fullmatch(text)
        if parts is None:
            return None
        with self._read() as session:
            row = session.get(KeyRow, parts[1])
        if row is None or not _is_secret(row, parts[2]):
            return None
        return self._used(row)

    def valid(self, key_id: str) -> KeyInfo | None:
        """Return the facts of a key that was checked before, if it is still valid; this counts as a use."""
        with self._read() as session:
            row = session.get(KeyRow, key_id)
        return None if row is None else self._used(row)

    def dead(self, key_ids: Collection[str]) -> set[str]:
        """Return those keys that are revoked, expired, gone or damaged by now; this is no use of them."""
        query = select(KeyRow).where(KeyRow.id.in_(list(key_ids)))
        with self._read() as session:
            found = self._reader.read_all(KeyInfo, session.scalars(query))
        return set(key_ids) - {key.id for key in found if self._is_valid(key)}

    def exist(self) -> bool:
        """Whether a key was ever made. Revoked ones count: revoking the last key must not open the service to
        everybody.
        """
        with self._read() as session:
            return session.scalar(select(KeyRow.id).limit(1)) is not None

    def _used(self, row: KeyRow) -> KeyInfo | None:
        """Return a key that is valid now; None if its row cannot be read."""
        key = self._reader.read(KeyInfo, row)
        if key is None or not self._is_valid(key):
            return None
        self._note_use(key)
        return key

    def _is_valid(self, key: KeyInfo) -> bool:
        return key.revoked_at is None and (key.expires_at is None or key.expires_at > self._now())

    def _note_use(self, key: KeyInfo) -> None:
        """Record the use of a key, at most once a minute: a check must not wait for the disk each time."""
        limit = self._now() - _USED_GRAIN_S
        if key.last_used_at is not None and key.last_used_at > limit:
            return
        stale = or_(KeyRow.last_used_at.is_(None), KeyRow.last_used_at <= limit)
        with self._write.begin() as session:
            session.execute(update(KeyRow).where(KeyRow.id == key.id, stale).values(last_used_at=self._now()))


def _require_valid(owner: str, name: str, scopes: list[str]) -> None:
    if not _OWNER.fullmatch(owner):
        raise InputError(f"owner {owner[:80]!r} is not 1 to 64 letters, digits, `_`, `.`, `@`, `-`", param="owner")
    if not 1 <= len(name) <= _MAX_NAME_CHARACTERS or not name.isprintable():
        raise InputError(f"a key's name has 1 to {_MAX_NAME_CHARACTERS} printable characters", param="name")
    unknown = [scope for scope in scopes if scope not in set(Scope)]
    if unknown or not scopes:
        raise InputError(f"scopes {unknown} are unknown; give one or more of {', '.join(Scope)}", param="scopes")


def _is_secret(row: KeyRow, secret: str) -> bool:
    stored = row.secret_sha256
    return isinstance(stored, str) and hmac.compare_digest(stored.encode("utf-8"), _digest(secret).encode("ascii"))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
