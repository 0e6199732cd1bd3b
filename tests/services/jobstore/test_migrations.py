"""The schema by revisions: equal to the models, and kind to databases that are older."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from store_helpers import Clock, at_once, config

from eda_service.capacity import Capacity, Machines
from eda_service.errors import ConflictError
from eda_service.jobstore import JobStore, Status
from eda_service.jobstore.engine import open_engine
from eda_service.jobstore.models import Base
from eda_service.jobstore.schema import FIRST, alembic_config

pytestmark = pytest.mark.usefixtures("database_as_served")

# What `create_all` of version 0.1.0 sent to each database, as SQLAlchemy printed it.
_BEFORE_REVISIONS = Path(__file__).parent / "created_before_revisions"

_OPEN_AT = """
import sys, time
from eda_service.jobstore import JobStore
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
JobStore(sys.argv[1]).close()
"""


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    opened = open_engine(url)
    yield opened
    opened.dispose()


def run_script(url: str, backend: str, script: str) -> None:
    """Statements without parameters, straight to the driver."""
    if backend == "sqlite":
        with sqlite3.connect(url.removeprefix("sqlite:///")) as raw:
            raw.executescript(script)
        raw.close()
    else:
        with psycopg.connect(url, autocommit=True) as raw:
            raw.execute(script)


def create_before_revisions(url: str, backend: str) -> None:
    run_script(url, backend, Path(f"{_BEFORE_REVISIONS}.{backend}.sql").read_text())


def schema(engine: Engine, *, leave_out: str = "alembic_version") -> dict[str, Any]:
    """Columns, keys and indexes of every table, in words."""
    look = inspect(engine)
    found: dict[str, Any] = {}
    for table in sorted(set(look.get_table_names()) - {leave_out}):
        columns = {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in look.get_columns(table)}
        primary = look.get_pk_constraint(table)["constrained_columns"]
        foreign = sorted((*k["constrained_columns"], k["referred_table"]) for k in look.get_foreign_keys(table))
        unique = sorted(tuple(k["column_names"]) for k in look.get_unique_constraints(table))
        indexes = sorted((i["name"], tuple(i["column_names"])) for i in look.get_indexes(table) if not i["unique"])
        found[table] = (columns, primary, foreign, unique, indexes)
    return found


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "upgraded"])
def test_the_schema_equals_the_models(url: str, backend: str, engine: Engine, is_old: bool) -> None:
    if is_old:
        create_before_revisions(url, backend)
    JobStore(url).close()
    with engine.connect() as connection:
        # PostgreSQL cannot compare JSON defaults; SQLite's are the same words.
        options = {"compare_type": True, "compare_server_default": backend == "sqlite"}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
        primary = inspect(connection).get_pk_constraint("idempotency_keys")["constrained_columns"]
    assert primary == ["owner", "key"]


def test_the_comparison_sees_a_missing_column(url: str, engine: Engine) -> None:
    JobStore(url).close()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs DROP COLUMN ray_session"))
        assert len(compare_metadata(MigrationContext.configure(connection), Base.metadata)) == 1


def test_the_first_revision_is_the_schema_before_revisions(url: str, backend: str, engine: Engine) -> None:
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), FIRST)
    by_revision = schema(engine)
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert schema(engine) == {}
    create_before_revisions(url, backend)
    assert schema(engine) == by_revision


def test_a_database_from_before_revisions_keeps_its_jobs(
    url: str, backend: str, open_store: Callable[[], JobStore], clock: Clock
) -> None:
    create_before_revisions(url, backend)
    body = json.dumps(config(seed=3).model_dump(mode="json")).replace("'", "''")
    columns = (
        "seq, id, status, origin, config, content_sha256, labels, priority, attempt, max_attempts, created_at, "
        "not_before, events_read"
    )
    row = f"7, 'adapt_old', 'running', 'api', '{body}', 'x', '{{\"team\": \"math\"}}', 50, 1, 3, 5, 0, 2"
    run_script(
        url,
        backend,
        f"INSERT INTO jobs ({columns}) VALUES ({row});"
        "INSERT INTO events (id, job_id, at, level, type, message) VALUES (4, 'adapt_old', 5, 'info', 'old', 'm');"
        "INSERT INTO idempotency_keys (key, job_id, request_sha256, created_at) VALUES ('k', 'adapt_old', 'a', 5);"
        "INSERT INTO deployments (name, target, base_draft, pack, job_id, updated_at) "
        "VALUES ('pair', '{\"model\": \"org/m\"}', 'd@1', 'p@1', 'adapt_old', 5);",
    )
    if backend == "postgresql":  # explicit ids do not move a sequence
        run_script(url, backend, "SELECT setval('jobs_seq_seq', 7); SELECT setval('events_id_seq', 4);")
    store = open_store()
    job = store.jobs.get("adapt_old", owner="local")
    assert (job.seq, job.status, job.events_read, job.labels) == (7, Status.RUNNING, 2, {"team": "math"})
    assert (job.owner, job.lease_token, job.stage_deadlines, job.webhook_url) == ("local", 0, {}, None)
    assert job.adapt_config() == config(seed=3)
    assert [event.type for event in store.events.of("adapt_old")[0]] == ["old"]
    assert store.jobs.create(config(), idempotency_key="k", request_sha256="a") == (job, False)
    (deployment,) = store.deployments.all()
    assert (deployment.name, deployment.owner, deployment.pack, deployment.revision) == ("pair", "local", "p@1", 1)
    assert (deployment.min_replicas, deployment.max_replicas, deployment.labels) == (1, 1, {})
    assert deployment.uid.startswith("dep_")
    assert not deployment.has_own_uid
    assert [(each.pack, each.made_by) for each in store.deployments.revisions("pair")] == [("p@1", "adapt_old")]
    (held,) = store.leases.hold(holder="a", lease_s=30)
    assert (held.id, held.lease_token) == ("adapt_old", 1)
    new, _ = store.jobs.create(config("new"))
    assert new.seq == 8


def test_jobs_of_the_version_before_uploads_start_and_take_them(
    url: str, engine: Engine, open_store: Callable[[], JobStore]
) -> None:
    """Revision 0010 is that version's: what was queued fits every node, and files are taken at once."""
    store = open_store()
    queued, running = (store.jobs.create(config(name))[0] for name in ("queued", "running"))
    store.close()
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0010")
        connection.execute(text(f"UPDATE jobs SET status = 'running', cpus = 9 WHERE id = '{running.id}'"))
        connection.execute(text(f"UPDATE jobs SET cpus = 3, gpus = 1 WHERE id = '{queued.id}'"))
    assert "files" not in schema(engine)
    assert not {"node_cpus", "node_gpus", "waits_for"} & set(schema(engine)["jobs"][0])
    upgraded = open_store()
    assert [(job.id, job.adapt_config(), job.waits_for) for job in upgraded.jobs.live()] == [
        (queued.id, config("queued"), None),
        (running.id, config("running"), None),
    ]
    of_small_nodes = Machines(Capacity(cpus=90, gpus=9), (Capacity(cpus=1, gpus=0),))
    claimed = upgraded.leases.claim(max_running=9, holder="a", lease_s=30, cluster=of_small_nodes)
    assert claimed is not None
    assert (claimed.id, claimed.cpus, claimed.gpus) == (queued.id, 3, 1)
    counts = {"size_bytes": 5, "num_prompts": 1, "num_skipped": 0, "max_bytes_per_owner": 9}
    file, _ = upgraded.files.add("file-1", owner="a", filename="x", purpose="fine-tune", sha256="0", **counts)
    assert upgraded.files.page(owner="a") == ([file], False)


def test_opening_again_changes_nothing(url: str, engine: Engine) -> None:
    JobStore(url).close()
    before = schema(engine, leave_out="")
    JobStore(url).close()
    assert schema(engine, leave_out="") == before


def test_a_new_file_waits_for_a_writer_that_has_not_turned_the_log_on_yet(tmp_path: Path) -> None:
    """SQLite refuses the change of mode at once then, whatever the busy timeout says."""
    path = tmp_path / "eda.db"
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    let_go = threading.Timer(0.5, writer.commit)
    let_go.start()
    engine = open_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    engine.dispose()
    let_go.join()
    writer.close()


def test_many_processes_may_open_a_new_database_at_once(url: str) -> None:
    start_at = time.time() + 3  # all have imported by then
    command_line = [sys.executable, "-W", "error", "-c", _OPEN_AT, url, str(start_at)]
    running = [subprocess.Popen(command_line, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate(timeout=200)[1] for process in running]
    assert [(process.returncode, error) for process, error in zip(running, errors, strict=True)] == [(0, "")] * 4


def test_many_threads_may_open_a_new_database_at_once(open_store: Callable[[], JobStore]) -> None:
    stores = at_once([open_store] * 6)
    assert {store.jobs.create(config())[0].seq for store in stores} == {1}


def test_a_failed_upgrade_leaves_the_old_schema(
    url: str,
    backend: str,
    engine: Engine,
) -> None:
    create_before_revisions(url, backend)
    run_script(url, backend, "CREATE TABLE webhook_outbox (id INTEGER);")  # in the way of the last step
    before = schema(engine)
    with pytest.raises(Exception, match="webhook_outbox"):
        JobStore(url)
    assert schema(engine) == before
    run_script(url, backend, "DROP TABLE webhook_outbox;")
    JobStore(url).close()


def test_a_database_of_a_newer_version_is_refused(url: str, engine: Engine) -> None:
    JobStore(url).close()
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConflictError, match="revision 9999, this version knows up to 0012"):
        JobStore(url)
