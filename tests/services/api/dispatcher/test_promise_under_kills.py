"""A job that was answered 2xx is there after kill -9, whatever was asked before and whoever opened the database beside.

A real API process (no cluster answers) with keys; between two jobs comes an odd request, and a command of another
process that opens the database and ends. SQLite then takes the database for unused, if the API has lost its locks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from draft_files import put_draft

from eda_service.jobstore import JobStore
from eda_service.raycluster.processes import free_port

REPOSITORY = Path(__file__).resolve().parents[4]
BODY: dict[str, Any] = {"model": "org/model", "base_draft": "small@1", "force": True}
EDA = [sys.executable, "-m", "eda_service.cli.main"]
LOOK = """
import sys
from pathlib import Path
from eda_service.raycluster import supervisor
supervisor._safe_host(Path(sys.argv[1]), "127.0.0.1")
"""
_READY_S = 120.0


@dataclass
class Api:
    """A running API process, its home, and two of its keys."""

    home: Path
    env: dict[str, str]
    url: str
    child: subprocess.Popen[bytes]
    keys: tuple[dict[str, Any], ...] = ()

    def request(self, route: str, body: Any = None, *, key: int = 0, method: str = "POST") -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[key]['key']}"} if self.keys else {}
        return httpx.request(method, f"{self.url}{route}", json=body, headers=headers, timeout=60, trust_env=False)

    def post(self, **changes: Any) -> httpx.Response:
        return self.request("/v1/adaptations", {**BODY, **changes})

    def job(self) -> str:
        """Make a job; the id that was answered."""
        answer = self.post()
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def command(self, *words: str) -> str:
        """Run a command in another process to its end."""
        done = subprocess.run(words, env=self.env, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def make_key(self, name: str) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(self.command(*EDA, "keys", "create", name, "--scope", "admin", "--json"))
        return made

    def kill(self) -> set[str]:
        """Kill it; the ids of the jobs that are in the database then."""
        self.child.kill()
        self.child.wait()
        store = JobStore(f"sqlite:///{self.home / 'eda.db'}")
        try:
            return store.jobs.known_ids()
        finally:
            store.close()


@contextmanager
def api(tmp_path: Path) -> Iterator[Api]:
    home = tmp_path / "home"
    put_draft(home)
    (tmp_path / "allowed").mkdir()
    closed = f"http://127.0.0.1:{free_port()}"
    env = {
        **os.environ,
        "EDA_HOME": str(home),
        "EDA_PORT": str(free_port()),
        "EDA_SERVE": "false",
        "EDA_HUB_AT_SUBMIT": "skip",
        "EDA_RAY_DASHBOARD_URL": closed,
        "EDA_LOCAL_ROOTS": str(tmp_path),
        "HF_ENDPOINT": closed,
    }
    env.pop("EDA_DATABASE_URL", None)
    with (tmp_path / "api.log").open("wb") as log:
        child = subprocess.Popen([sys.executable, "-m", "api"], env=env, cwd=REPOSITORY, stdout=log, stderr=log)
    found = Api(home, env, f"http://127.0.0.1:{env['EDA_PORT']}", child)
    try:
        deadline = time.monotonic() + _READY_S
        while not _answers(found.url):
            assert child.poll() is None, (tmp_path / "api.log").read_text()
            assert time.monotonic() < deadline, "the API did not start"
            time.sleep(0.1)
        yield found
    finally:
        child.kill()
        child.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def database(running: Api) -> httpx.Response:
    return running.post(dataset={"source": f"{running.home}/eda.db"})


def write_ahead_log(running: Api) -> httpx.Response:
    return running.request(
        "/v1/adaptations/estimate", {**BODY, "eval_dataset": {"source": f"{running.home}/eda.db-wal"}}
    )


def hard_link(running: Api) -> httpx.Response:
    os.link(running.home / "eda.db", running.home.parent / "allowed" / "rows.jsonl")
    return running.post(dataset={"source": f"{running.home.parent}/allowed/rows.jsonl"}, dry_run=True)


def link(running: Api) -> httpx.Response:
    (running.home.parent / "allowed" / "rows.jsonl").symlink_to("../home/eda.db-shm")
    body = {"model": "org/model", "training_file": f"{running.home.parent}/allowed/rows.jsonl"}
    return running.request("/v1/fine_tuning/jobs", body)


def checkpoint(running: Api) -> httpx.Response:
    model = running.home.parent / "allowed" / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    os.link(running.home / "eda.db", model / "model.safetensors")
    return running.request("/v1/adaptations/estimate", {**BODY, "model": str(model)})


def deployment(running: Api) -> httpx.Response:
    model = running.home.parent / "allowed" / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"")
    os.link(running.home / "eda.db-shm", model / "config.json")
    return running.request("/v1/deployments", {"model": str(model), "base_draft": "small@1"})


def home_as_a_model(running: Api) -> httpx.Response:
    return running.post(model=str(running.home))


def odd_names(running: Api) -> httpx.Response:
    running.request("/v1/deployments", {"model": "org/model", "base_draft": "small@1", "name": "名"})
    running.request(f"/v1/deployments/{'x' * 120}", method="DELETE")
    return running.post(dataset={"source": "/" + "x" * 500})


ODD = [database, write_ahead_log, hard_link, link, checkpoint, deployment, home_as_a_model, odd_names]


def listing(running: Api) -> None:
    running.command(*EDA, "keys", "ls")


def creating(running: Api) -> None:
    running.make_key("beside")


def revoking(running: Api) -> None:
    running.command(*EDA, "keys", "revoke", running.keys[1]["id"])


def doctor(running: Api) -> None:
    running.command(*EDA, "doctor", "--url", running.url)


def supervisor(running: Api) -> None:
    running.command(sys.executable, "-c", LOOK, str(running.home))


@pytest.mark.parametrize("odd", ODD)
def test_no_accepted_job_is_lost_after_an_odd_request(tmp_path: Path, odd: Callable[[Api], httpx.Response]) -> None:
    with api(tmp_path) as running:
        accepted = [running.job()]
        refused = odd(running)
        assert refused.status_code == 400, refused.text
        accepted.append(running.job())
        listing(running)
        accepted += [running.job(), running.job()]
        assert set(accepted) <= running.kill()


@pytest.mark.parametrize("beside", [creating, revoking, doctor, supervisor])
def test_no_accepted_job_is_lost_beside_a_command(tmp_path: Path, beside: Callable[[Api], None]) -> None:
    with api(tmp_path) as running:
        running.keys = (running.make_key("one"), running.make_key("two"))
        accepted = [running.job()]
        assert database(running).status_code == 400
        beside(running)
        accepted.append(running.job())
        beside(running)
        accepted.append(running.job())
        assert set(accepted) <= running.kill()


def test_a_key_that_is_revoked_is_refused_at_once(tmp_path: Path) -> None:
    """Once it was not: the API read its own copy of the keys' page, from a log that the command had unlinked."""
    with api(tmp_path) as running:
        running.keys = (running.make_key("one"), running.make_key("two"))
        accepted = [running.job()]
        assert database(running).status_code == 400
        listing(running)
        assert running.request("/v1/adaptations", method="GET", key=1).status_code == 200  # writes to the keys' page
        accepted.append(running.job())
        running.command(*EDA, "keys", "revoke", running.keys[0]["id"])
        assert running.request("/v1/adaptations", method="GET").status_code == 401
        assert running.request("/v1/adaptations", method="GET", key=1).status_code == 200
        assert set(accepted) <= running.kill()
