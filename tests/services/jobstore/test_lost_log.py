"""A process that has lost its locks on SQLite's file takes no job any more, rather than lose those it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.jobstore import JobStore

CONFIG = AdaptConfig(target=TargetSpec(model="org/model"))
OPEN = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT id FROM jobs').fetchall())"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "eda.db"


@pytest.fixture
def store(database: Path) -> Iterator[JobStore]:
    opened = JobStore(f"sqlite:///{database}")
    yield opened
    opened.close()


def seen_by_another(database: Path) -> str:
    """What another process reads, which opens the database and ends."""
    done = subprocess.run([sys.executable, "-c", OPEN, str(database)], capture_output=True, text=True, check=True)
    return done.stdout


def test_every_job_that_was_taken_is_seen_after_the_locks_are_lost(store: JobStore, database: Path) -> None:
    taken = [store.jobs.create(CONFIG, force=True)[0].id for _ in range(3)]
    os.close(os.open(database, os.O_RDONLY))  # fcntl(2): drops this process's locks
    seen_by_another(database)  # finds nobody, and removes the log
    for _ in range(3):
        with pytest.raises(OperationalError, match="removed or replaced under this process"):
            taken.append(store.jobs.create(CONFIG, force=True)[0].id)
    with pytest.raises(OperationalError):
        store.jobs.page()
    seen = seen_by_another(database)
    assert all(job_id in seen for job_id in taken)


def test_with_its_locks_a_store_shares_the_database(store: JobStore, database: Path) -> None:
    taken = []
    for _ in range(3):
        taken.append(store.jobs.create(CONFIG, force=True)[0].id)
        assert all(job_id in seen_by_another(database) for job_id in taken)


def test_a_database_in_memory_has_no_log() -> None:
    store = JobStore("sqlite://")
    assert store.jobs.create(CONFIG)[1]
    store.close()
