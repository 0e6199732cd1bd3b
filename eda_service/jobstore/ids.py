"""Sortable identifiers in ULID form: 48 bits of milliseconds, 80 random bits, 26 Crockford base-32 characters."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_NUM_CHARACTERS = 26


def ulid(now_s: float | None = None) -> str:
    """A new identifier; later milliseconds sort after earlier ones, within one millisecond the order is random."""
    millis = int((time.time() if now_s is None else now_s) * 1000)
    value = (millis << 80) | secrets.randbits(80)
    return "".join(_ALPHABET[(value >> (5 * place)) & 31] for place in reversed(range(_NUM_CHARACTERS)))


def new_deployment_uid() -> str:
    """A new deployment's own id: `dep_` and a ULID. A name that is deleted and made again is another deployment."""
    return f"dep_{ulid()}"


def new_job_id(now_s: float | None = None) -> str:
    """A new job id: `adapt_` and a ULID."""
    return f"adapt_{ulid(now_s)}"
