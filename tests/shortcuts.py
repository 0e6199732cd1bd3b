"""What a test process leaves out because nothing here depends on it: flushes to disk, and work done anew each time.

A test kills processes and not machines, so what the kernel holds in memory is as good as on the disk; PostgreSQL's
`fsync` is off for the same reason (`postgres.py`). The schema of a new SQLite database is made by the revisions once in
a process and copied from then on, and the certificates that httpx trusts are read once. Processes that tests start
know nothing of this.
"""

from __future__ import annotations

import functools
import gc
import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

from eda_service.jobstore import database, schema
from eda_service.jobstore.engine import open_engine

_QUICK = "eda_tests_quick"


def install() -> None:
    """Take the shortcuts from now on, in this process."""
    os.fsync = lambda _: None
    ssl.create_default_context = functools.cache(ssl.create_default_context)
    event.listen(Pool, "checkout", _do_not_flush)
    database.upgrade = upgrade


def keep_out_of_collections() -> None:
    """Tell the garbage collector that what is imported by now stays: a full collection then looks at the rest only."""
    gc.collect()
    gc.freeze()


@contextmanager
def none_of_the_database() -> Iterator[None]:
    """Open databases as the service does, for a test about their settings or revisions."""
    event.remove(Pool, "checkout", _do_not_flush)
    database.upgrade = schema.upgrade
    try:
        yield
    finally:
        event.listen(Pool, "checkout", _do_not_flush)
        database.upgrade = upgrade


def upgrade(engine: Engine) -> None:
    """`schema.upgrade`; a new SQLite database gets what the revisions have once made of another one."""
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0:
                for statement in _statements():
                    connection.exec_driver_sql(statement)
                return
    schema.upgrade(engine)


@functools.cache
def _statements() -> tuple[str, ...]:
    """What makes an empty SQLite database one that the revisions have been applied to."""
    with tempfile.TemporaryDirectory() as directory:
        engine = open_engine(f"sqlite:///{Path(directory) / 'revised.db'}")
        schema.upgrade(engine)
        made = engine.raw_connection()
        try:
            script = list(made.driver_connection.iterdump())
        finally:
            made.close()
            engine.dispose()
    return tuple(line for line in script if line not in {"BEGIN TRANSACTION;", "COMMIT;"})


def _do_not_flush(connection: Any, record: Any, _proxy: Any) -> None:
    if hasattr(connection, "iterdump") and _QUICK not in record.info:
        connection.execute("PRAGMA synchronous=OFF")
        record.info[_QUICK] = True
