"""Advisory locks for counts and for rows that do not exist yet, which cannot be locked as rows.

SQLite needs none (`BEGIN IMMEDIATE` admits one writer). On PostgreSQL a lock lasts until the transaction ends; it is
released after the commit is visible, so the next holder sees what its predecessor wrote.

Locks are taken in the order of `Space`, before any row lock that could wait, and one per space: so there is no
deadlock. Only a transition takes DEPLOYMENT after its job's row; no holder of DEPLOYMENT waits for a job's row, since a
foreign key's `FOR KEY SHARE` does not conflict with the `FOR NO KEY UPDATE` that the store takes.
"""

from __future__ import annotations

from enum import IntEnum

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

_OURS = 0x0EDA_0000  # two-part locks of other programs in the same database start at other numbers


class Space(IntEnum):
    """The kinds of things that are locked."""

    SCHEMA = 0
    CLAIM = 1
    IDEMPOTENCY_KEY = 2
    CONTENT = 3
    QUOTA = 4
    ADOPT = 5
    DEPLOYMENT = 6
    CHAMPION = 7
    FILES = 8


def lock(on: Session | Connection, space: Space, name: str = "") -> None:
    """Wait for the lock on `name` in `space`. Two names may share a lock, which only causes waiting."""
    bind = on.get_bind() if isinstance(on, Session) else on
    if bind.dialect.name == "postgresql":
        on.execute(select(func.pg_advisory_xact_lock(_OURS + space.value, func.hashtext(name))))
