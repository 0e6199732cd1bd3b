"""The open database that the parts of the store share: an engine, sessions that write, sessions that read, a clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy.orm import sessionmaker

from eda_service.jobstore.engine import open_engine, reader
from eda_service.jobstore.schema import upgrade


class Database:
    """One database with the schema of this version.

    Args:
        url: SQLAlchemy URL, e.g. `sqlite:////home/me/.eda/eda.db` or `postgresql://eda:secret@db/eda`.
        clock: Seconds since the epoch; passed in so that tests choose the time.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = open_engine(url)
        upgrade(self._engine)
        self._write = sessionmaker(self._engine, expire_on_commit=False)
        self._read = sessionmaker(reader(self._engine), expire_on_commit=False)
        self._clock = clock

    @property
    def backend(self) -> str:
        """`sqlite` (one API process on this machine) or `postgresql` (as many as you like)."""
        return self._engine.dialect.name

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    def _now(self) -> int:
        return int(self._clock())
