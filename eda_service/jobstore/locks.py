"""Advisory locks: what no row can be locked for, because it is a count or a row that does not exist yet.

SQLite needs none (`BEGIN IMMEDIATE` lets one writer in). On PostgreSQL a lock lasts until the transaction ends; it is
released after the commit is visible, so whoever waited for it sees what its predecessor wrote.

Locks are taken in the order of `Space` and before any row lock that could be waited for, one per space: no deadlock.
A transition alone takes DEPLOYMENT after its job's row; nobody holding DEPLOYMENT waits for a job's row, since a
foreign key's `FOR KEY SHARE` does not conflict with the `FOR NO KEY UPDATE` that the store takes.
"""

from __future__ import annotations

from enum import IntEnum

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

_OURS = 0x0EDA_0000  # two-part locks of other programs in the same database start elsewhere


class Space(IntEnum):
    """What is locked."""

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
    """Wait until nobody else holds `name` in `space`. Two names may share a lock, which costs nothing but waiting."""
    bind = on.get_bind() if isinstance(on, Session) else on
    if bind.dialect.name == "postgresql":
        on.execute(select(func.pg_advisory_xact_lock(_OURS + space.value, func.hashtext(name))))
