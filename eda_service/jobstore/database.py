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
        self._engine = open_engine(url)
        upgrade(self._engine)
        self._write = sessionmaker(self._engine, expire_on_commit=False)
        self._read = sessionmaker(reader(self._engine), expire_on_commit=False)
        self._clock, self._vault = clock, vault
        self._reader = Reader()

    @property
    def backend(self) -> str:
        """The kind of database: `sqlite` (one API process on this machine) or `postgresql` (any number
        of processes).
        """
        return self._engine.dialect.name

    @property
    def num_unreadable(self) -> dict[str, int]:
        """Number of rows by table that this process could not read at the last attempt."""
        return self._reader.num_unreadable

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    def _now(self) -> int:
        return int(self._clock())
