"""Two API processes, each with a dispatcher, on one PostgreSQL and one Ray head; one of them is killed at work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from draft_files import put_draft
from postgres import Postgres
from running import REPOSITORY, Service
from waiting import TEST_TIMEOUT_S, wait_for, work_of

from eda_service.client import Client
from eda_service.raycluster.processes import free_port
from eda_service.raycluster.token import token_path

ENTRY = f"{sys.executable} {REPOSITORY / 'tests' / 'integration' / 'tiny_job.py'}"
NUM_JOBS = 8

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]


@pytest.fixture(scope="module")
def settings(postgres: Postgres) -> dict[str, str]:
    return {
        "EDA_JOB_COMMAND": ENTRY,
        "EDA_SERVE": "false",
        "EDA_HUB_AT_SUBMIT": "skip",
        "EDA_DATABASE_URL": postgres.new_database(),
        "EDA_DISPATCH_INTERVAL_S": "0.2",
        "EDA_LEASE_S": "2",
        "EDA_MAX_RUNNING": "3",
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    put_draft(home)
    with Service(home, settings) as running:
        yield running


@pytest.fixture
def second(service: Service, settings: dict[str, str], tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Another API process over the same database and cluster: its URL and itself."""
    port = free_port()
    env = {
        **os.environ,
        **settings,
        "EDA_HOME": str(service.home),
        "EDA_PORT": str(port),
        "EDA_RAY_DASHBOARD_URL": str(service.up_file["dashboard_url"]),
        "EDA_RAY_TOKEN_PATH": str(token_path(service.home)),
    }
    with (tmp_path / "api.log").open("wb") as log:
        child = subprocess.Popen([sys.executable, "-m", "api"], env=env, cwd=REPOSITORY, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_ready(url, child)
        yield url, child
    finally:
        child.kill()
        child.wait(30)


def wait_ready(url: str, child: subprocess.Popen[bytes]) -> None:
    def is_up() -> bool:
        assert child.poll() is None
        with contextlib.suppress(httpx.HTTPError):
            return bool(httpx.get(f"{url}/health", timeout=10).json()["ray_reachable"])
        return False

    wait_for(is_up, what="the second API", progress=lambda: work_of(child.pid))


def test_two_apis_share_the_work_and_one_may_die(service: Service, second: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, process = second
    made: list[str] = []

    def post(api: str, key: str) -> None:
        with Client(api) as client:
            body = {"model": "org/m", "base_draft": "small", "served_name": "succeed", "force": True}
            made.append(client.create(body, idempotency_key=key).id)

    apis = (str(service.up_file["api_url"]), url)
    posts = [threading.Thread(target=post, args=(api, f"key-{n}")) for n in range(NUM_JOBS) for api in apis]
    for each in posts:
        each.start()
    for each in posts:
        each.join(60)
    assert len(made) == 2 * NUM_JOBS
    assert len(set(made)) == NUM_JOBS, "the same key at both made two jobs"
    with Client(url) as other:
        service.wait_for(lambda: any(job.status == "succeeded" for job in other.page()), "the first job's end")
    os.kill(process.pid, signal.SIGKILL)
    with Client(apis[0]) as client:
        for job_id in set(made):
            job = service.wait_job(client, job_id)
            kinds = [event.type for event in client.events(job_id)]
            assert (job.status, job.attempt) == ("succeeded", 1), kinds
            assert [kinds.count(kind) for kind in ("job_created", "attempt_started", "job_succeeded")] == [1, 1, 1]
            assert kinds.count("stage_started") == 6
