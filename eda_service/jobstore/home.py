"""The database of a state root: its URL, its name for people, and the store over it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import make_url

from eda_service.environment import Environment
from eda_service.jobstore.store import JobStore
from eda_service.private_files import private_home


def database_url(home: Path, given: str | None = None) -> str:
    """Return the URL of the service's database: the given one, by default `EDA_DATABASE_URL`; if empty, one under the
    home.
    """
    return (Environment.read().database_url if given is None else given) or f"sqlite:///{home / 'eda.db'}"


def database_name(home: Path) -> str:
    """Return the database as text without a secret: a file with links resolved, or a URL without its password."""
    file = database_file(home)
    if file is not None:
        return str(file)
    return make_url(database_url(home)).set(query={}).render_as_string(hide_password=True)


def database_file(home: Path) -> Path | None:
    """Return the file of an SQLite database, with links resolved; None if a server has the database."""
    url = make_url(database_url(home))
    return Path(url.database or "").resolve() if url.get_backend_name() == "sqlite" else None


def open_store(home: Path) -> JobStore:
    """Open the service's database."""
    private_home(home)
    return JobStore(database_url(home))
