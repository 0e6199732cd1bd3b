"""A database that is busy, full or away: a status to try again at, in the one shape, and nothing of what is inside.

Each is brought about for real, on the SQLite file of the running application.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from html_pages import parse
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

from api.settings import Settings
from eda_service.jobstore import JobStore

SECRET = "ORG-SECRET"
BODY = {"model": "org/model", "base_draft": "small@1", "metadata": {"note": SECRET}}
HTML = {"accept": "text/html"}
BUSY_MS = 50
NUM_KEYS = 200
INSIDE = (SECRET, "sqlite", "sqlalchemy", "sqlalche.me", "begin", "insert", "queuepool", "traceback", ".py", ".db")
"""What the errors' own texts hold and an answer must not, in small letters but for the secret."""

Break = Callable[[JobStore, Path], Any]


def engine_of(store: JobStore) -> Engine:
    return store.database.engine


@contextmanager
def pragma(store: JobStore, statement: str) -> Iterator[None]:
    """A setting of every connection that the application opens from now on."""

    def configure(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA {statement}")

    engine = engine_of(store)
    event.listen(engine, "connect", configure)
    engine.dispose()
    try:
        yield
    finally:
        event.remove(engine, "connect", configure)
        engine.dispose()


@contextmanager
def busy(store: JobStore, database: Path) -> Iterator[None]:
    """Another process writes, for longer than is waited for."""
    with pragma(store, f"busy_timeout={BUSY_MS}"):
        other = sqlite3.connect(database, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.close()


@contextmanager
def full(store: JobStore, _database: Path) -> Iterator[None]:
    """SQLite may take no page more: what a full disk makes it say."""
    with pragma(store, "max_page_count=1"):
        yield


@contextmanager
def no_free_connection(store: JobStore, _database: Path) -> Iterator[None]:
    """Every connection of the pool is in use."""
    pool = engine_of(store).pool
    assert isinstance(pool, QueuePool)
    waits_s, pool._timeout = pool._timeout, BUSY_MS / 1000
    held = []
    try:
        while len(held) < pool.size() + pool._max_overflow:
            held.append(pool.connect())
        yield
    finally:
        pool._timeout = waits_s
        for connection in held:
            connection.close()


@pytest.fixture
def database(settings: Settings) -> Path:
    return Path(settings.store_url.removeprefix("sqlite:///"))


def fill(store: JobStore) -> None:
    """Write more than the pages that SQLite has free hold."""
    for number in range(NUM_KEYS):
        store.keys.create("ada", f"{SECRET} {number}", ["admin"])


def wordy_job() -> dict[str, Any]:
    """A body that does not fit into the pages that SQLite has free."""
    return {**BODY, "metadata": {f"{SECRET}-{n}": "x" * 500 for n in range(16)}}


@pytest.mark.parametrize(
    ("broken", "status", "code", "message", "wait"),
    [
        (busy, 503, "database_unavailable", "the database does not answer; try again", "5"),
        (no_free_connection, 503, "database_unavailable", "the database does not answer; try again", "5"),
        (
            full,
            507,
            "insufficient_storage",
            "the disk of the service's database is full; free space there and try again",
            None,
        ),
    ],
)
def test_the_error_is_told_in_the_one_shape_and_nothing_internal_leaks(
    client: TestClient,
    store: JobStore,
    database: Path,
    caplog: pytest.LogCaptureFixture,
    broken: Break,
    status: int,
    code: str,
    message: str,
    wait: str | None,
) -> None:
    with broken(store, database), caplog.at_level(logging.ERROR, logger="api.errors"):
        answer = client.post("/v1/adaptations", json=wordy_job())
    assert answer.status_code == status, answer.text
    assert answer.json() == {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    assert answer.headers.get("retry-after") == wait
    assert answer.headers["x-request-id"].startswith("req_")
    shown = answer.text + str(answer.headers)
    assert not [word for word in INSIDE if word in shown or word in shown.lower()]
    told = [record.getMessage() for record in caplog.records if record.name == "api.errors"]
    assert told
    assert not [line for line in told if SECRET in line or "INSERT" in line or len(line) > 240]


def test_values_stay_out_of_the_errors_own_text_which_logs_show(store: JobStore, database: Path) -> None:
    with full(store, database), pytest.raises(OperationalError, match="disk is full") as caught:
        fill(store)
    assert SECRET not in str(caught.value)


def test_afterwards_the_same_request_is_taken(client: TestClient, store: JobStore, database: Path) -> None:
    for broken in (busy, full, no_free_connection):
        with broken(store, database):
            assert client.post("/v1/adaptations", json=wordy_job()).status_code >= 500
    assert store.jobs.page()[0] == []
    made = client.post("/v1/adaptations", json=wordy_job())
    assert made.status_code == 201
    assert [job.id for job in store.jobs.page()[0]] == [made.json()["id"]]


def test_a_browser_gets_a_page_and_a_script_the_error_object(
    client: TestClient, store: JobStore, database: Path
) -> None:
    with no_free_connection(store, database):
        page = client.get("/ui/jobs", headers=HTML)
        script = client.get("/ui/jobs", headers={"accept": "application/json"})
    assert page.status_code == script.status_code == 503
    assert page.headers["content-type"].startswith("text/html")
    assert "the database does not answer; try again" in parse(page.text).text
    assert script.json()["error"]["code"] == "database_unavailable"
    assert not [word for word in INSIDE if word in page.text.lower()]
