"""The open database that the parts of the store share: an engine, writing sessions, reading sessions, a clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy.orm import sessionmaker

from eda_service.jobstore.engine import open_engine, reader
from eda_service.jobstore.reading import Reader
from eda_service.jobstore.schema import upgrade
from eda_service.jobstore.vault import Vault


class Database:
    """One database with the schema of this version.

    Args:
        url: Database URL of SQLAlchemy, for example `sqlite:////home/me/.eda/eda.db` or
            `postgresql://eda:secret@db/eda`.
        clock: Clock in seconds since the epoch; passed in so that tests choose the time.
        vault: Vault that seals the secrets of webhooks; None: this process stores and reads none.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time, vault: Vault | None = None) -> None:
        self.engine = open_engine(url)
        upgrade(self.engine)
        self.write = sessionmaker(self.engine, expire_on_commit=False)
        self.read = sessionmaker(reader(self.engine), expire_on_commit=False)
        self.clock, self.vault = clock, vault
        self.reader = Reader()

    @property
    def backend(self) -> str:
        """`sqlite` (one API process on this machine) or `postgresql` (as many as you like)."""
        return self.engine.dialect.name

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


class Part:
    """The base class of the parts of the store.

    Args:
        database: Shared with the other parts.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._write, self._read, self._vault = database.write, database.read, database.vault

    @property
    def backend(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._database.backend

    @property
    def _reader(self) -> Reader:
        return self._database.reader

    def _now(self) -> int:
        return int(self._database.clock())
