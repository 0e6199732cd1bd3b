"""Migration of a database to this version's schema, by the revisions under `migrations/versions`.

It runs whenever a store is opened, in one transaction under a lock: of processes that start together one does it, and
one that is killed in the middle leaves the old schema.
"""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect

from eda_service.errors import ConflictError
from eda_service.jobstore.locks import Space, lock

FIRST = "0001"  # built by `create_all` before there were revisions
_MIGRATIONS = Path(__file__).parent / "migrations"
_ONE_AT_A_TIME = threading.Lock()  # Alembic keeps its context in module globals


def upgrade(engine: Engine) -> None:
    """Create the schema, or bring an older one up to date with its data.

    Raises:
        ConflictError: The database was written by a newer version.
    """
    with _ONE_AT_A_TIME, engine.begin() as connection:
        lock(connection, Space.SCHEMA)
        config = alembic_config(connection)
        if _is_current(connection, ScriptDirectory.from_config(config)):
            return
        tables = inspect(connection).get_table_names()
        if "alembic_version" not in tables and "jobs" in tables:
            command.stamp(config, FIRST)
        command.upgrade(config, "head")


def alembic_config(connection: Connection) -> Config:
    """Make Alembic's settings, for work inside `connection`'s transaction."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _is_current(connection: Connection, scripts: ScriptDirectory) -> bool:
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None:
        return False
    try:
        scripts.get_revision(revision)
    except CommandError as error:
        raise ConflictError(
            f"the database has schema revision {revision}, this version knows up to {scripts.get_current_head()}; "
            "install the version that wrote it, or newer"
        ) from error
    return revision == scripts.get_current_head()
