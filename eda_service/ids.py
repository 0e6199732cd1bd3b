"""Sortable identifiers in ULID form: 48 bits of milliseconds, 80 random bits, 26 Crockford base-32 characters."""

from __future__ import annotations

import re
import secrets
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_NUM_CHARACTERS = 26
JOB_ID_PATTERN = r"[A-Za-z0-9_.-]{1,64}"
"""Pattern of job ids, including ids that a person gave to a job started by hand."""
FILE_ID_PATTERN = rf"file-[{_ALPHABET}]{{{_NUM_CHARACTERS}}}"
"""Pattern of ids of uploaded files. No data set of a hub has such a name, so a text never means both."""

_FILE_ID = re.compile(FILE_ID_PATTERN)


def ulid(now_s: float | None = None) -> str:
    """Make a new identifier; later milliseconds sort after earlier ones, within one millisecond the order is random."""
    millis = int((time.time() if now_s is None else now_s) * 1000)
    value = (millis << 80) | secrets.randbits(80)
    return "".join(_ALPHABET[(value >> (5 * place)) & 31] for place in reversed(range(_NUM_CHARACTERS)))


def made_at_s(identifier: str) -> float:
    """Return the time at which an identifier was made, in seconds since the epoch; a prefix before the
    ULID does not matter.
    """
    value = 0
    for character in identifier[-_NUM_CHARACTERS:][:10]:
        value = value << 5 | _ALPHABET.index(character)
    return value / 1000


def is_deployment_uid(text: str) -> bool:
    """Whether `new_deployment_uid` could have made this text."""
    return re.fullmatch(rf"dep_[{_ALPHABET}]{{{_NUM_CHARACTERS}}}", text) is not None


def new_deployment_uid(now_s: float | None = None) -> str:
    """Make a deployment's id: `dep_` and a ULID. A name that is deleted and made again is another deployment."""
    return f"dep_{ulid(now_s)}"


def new_job_id(now_s: float | None = None, *, prefix: str = "adapt") -> str:
    """Make a job id: a prefix for the job's kind, and a ULID."""
    return f"{prefix}_{ulid(now_s)}"


def new_file_id(now_s: float | None = None) -> str:
    """Make an id for an uploaded file: `file-` and a ULID."""
    return f"file-{ulid(now_s)}"


def is_file_id(text: str) -> bool:
    """Whether a text has the form of an uploaded file's id."""
    return _FILE_ID.fullmatch(text) is not None
