"""Opening the database: SQLite by default, PostgreSQL (psycopg 3) by URL.

SQLite runs with WAL, `synchronous=FULL` (a 2xx survives power loss) and immediate transactions: `BEGIN IMMEDIATE` takes
the write lock before the first read of a writing transaction. With SQLite's default, two writers may both read and then
one fails with "database is locked" at once, whatever the busy timeout is.

Each SQLite connection remembers its write-ahead log. If another file is in its place, commits would go to a file
without a name and be lost at the end of the process, so no transaction begins or commits any more: no answer is better
than a wrong one. Only a restart helps, since SQLite keeps locks and shared memory per process.

PostgreSQL runs with READ COMMITTED: every statement sees what was committed before it, so a count taken after a lock is
current. Writers lock the job's row (`rows.find`) or an advisory lock (`locks`).

No statement's values appear in the text of an error: errors are logged, and values include secrets of webhooks.
"""

from __future__ import annotations

import json
import logging
import math
import random
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from eda_service.errors import InputError
from eda_service.jobstore.reading import from_json
from eda_service.regular_files import place, protect_database

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 30
IDLE_TRANSACTION_TIMEOUT_S = 60  # a dispatcher that was suspended in a transaction must not hold its locks forever
_AS_TEXT = partial(str, encoding="utf-8", errors="replace")  # one row that is not UTF-8 must not end a whole query
_LOG = "eda_write_ahead_log"
_POOL_SIZE, _POOL_OVERFLOW = 10, 10  # PostgreSQL's default is 100 connections for all replicas together


def open_engine(url: str) -> Engine:
    """Open (and for SQLite create) the database behind `url`.

    Raises:
        InputError: The queue does not support this kind of database.
    """
    parsed = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return _open_postgresql(parsed)
    if backend != "sqlite":
        raise InputError(f"the job store works on sqlite and postgresql, not on {backend!r}; give it such a URL")
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    engine = create_engine(
        parsed,
        connect_args=arguments,
        hide_parameters=True,
        json_deserializer=from_json,
        json_serializer=to_json,
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "commit", _require_same_log)
    return engine


def reader(engine: Engine) -> Engine:
    """Return the same engine and pool, with transactions that only read and so never wait for a writer."""
    return engine.execution_options(eda_read_only=True)


def rewrite(engine: Engine) -> None:
    """Rewrite a SQLite file from its contents, so that no replaced value stays in its pages or its log.

    The rewrite temporarily needs space for a second copy; without it, a warning is logged and the file stays.
    """
    with engine.connect().execution_options(eda_autocommit=True) as connection:
        try:
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        except OperationalError as error:
            logger.warning("the database file was not written anew, old pages may hold secrets: %s", error.orig)


def to_json(value: Any) -> str:
    """Encode JSON for both databases: PostgreSQL refuses NaN and infinity, which a diverged run's
    heartbeat contains.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _open_postgresql(url: URL) -> Engine:
    limits = {
        "lock_timeout": BUSY_TIMEOUT_S * 1000,
        "idle_in_transaction_session_timeout": IDLE_TRANSACTION_TIMEOUT_S * 1000,
    }
    options = " ".join(f"-c {name}={millis}" for name, millis in limits.items())
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={"options": options, "application_name": "eda"},
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        json_deserializer=from_json,
        json_serializer=to_json,
        max_overflow=_POOL_OVERFLOW,
        pool_pre_ping=True,
        pool_size=_POOL_SIZE,
    )


def _configure(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver must not emit its own BEGIN; `_begin` does
    connection.text_factory = _AS_TEXT
    cursor = connection.cursor()
    ((_, _, path),) = cursor.execute("PRAGMA database_list").fetchall()
    if path:  # empty for a database in memory
        protect_database(path)
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_S * 1000}", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    _write_ahead(cursor)
    cursor.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # a first read opens the log
    log = f"{path}-wal"
    record.info[_LOG] = (log, place(log)) if path else None
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Turn WAL on, with retries while other processes open the same new file.

    Two processes that change the mode at once both hold a read lock that the other waits for, so SQLite refuses one of
    them without using the busy timeout; the retry has to be here.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.02))
        else:
            return


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("eda_autocommit", False):
        return
    read_only = connection.get_execution_options().get("eda_read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
    _require_same_log(connection)


def _require_same_log(connection: Connection) -> None:
    """Check that the write-ahead log is the one that this connection writes to.

    Raises:
        OperationalError: The log was removed or replaced, as happens when this process has lost its locks on the
            database.
    """
    remembered = connection.info.get(_LOG)
    if remembered is not None and place(remembered[0]) != remembered[1]:
        logger.critical("%s was removed or replaced under this process; restart it", remembered[0])
        gone = sqlite3.OperationalError("the write-ahead log was removed or replaced under this process; restart it")
        raise OperationalError(None, None, gone)
