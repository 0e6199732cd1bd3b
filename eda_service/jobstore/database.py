"""The open database that the parts of the store share: an engine, sessions that write, sessions that read, a clock."""

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
        url: SQLAlchemy URL, e.g. `sqlite:////home/me/.eda/eda.db` or `postgresql://eda:secret@db/eda`.
        clock: Seconds since the epoch; passed in so that tests choose the time.
        vault: Keeps the secrets of webhooks; None: this process stores and reads none.
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
        """`sqlite` (one API process on this machine) or `postgresql` (as many as you like)."""
        return self._engine.dialect.name

    @property
    def num_unreadable(self) -> dict[str, int]:
        """Rows that this process could not read when it last looked at them, by table."""
        return self._reader.num_unreadable

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    def _now(self) -> int:
        return int(self._clock())
