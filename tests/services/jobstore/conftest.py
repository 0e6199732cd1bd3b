"""Every test of the store runs on both databases: a SQLite file of its own, and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_helpers import VAULT, Clock

from eda_service.jobstore import JobStore


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An empty database."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'eda.db'}"
    return str(request.getfixturevalue("postgres").emptied_database())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(url: str, clock: Clock) -> Iterator[Callable[[], JobStore]]:
    """Opens the same database again and again, each time as another process would: with an engine of its own."""
    opened: list[JobStore] = []

    def open_one() -> JobStore:
        opened.append(JobStore(url, clock=clock, vault=VAULT))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], JobStore]) -> JobStore:
    return open_store()
