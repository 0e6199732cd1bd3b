"""Opening the database. SQLite runs with WAL, `synchronous=FULL` (a 2xx survives power loss), immediate transactions.

`BEGIN IMMEDIATE` takes the write lock before the first read of a writing transaction. With SQLite's default, two
writers may both read and then one fails with "database is locked" at once, whatever the busy timeout says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

BUSY_TIMEOUT_S = 30


def open_engine(url: str) -> Engine:
    """Open (and for SQLite create) the database behind `url`."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def reader(engine: Engine) -> Engine:
    """The same engine and pool, with transactions that only read and so never wait for a writer."""
    return engine.execution_options(eda_read_only=True)


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not emit its own BEGIN; `_begin` does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_S * 1000}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("eda_read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
