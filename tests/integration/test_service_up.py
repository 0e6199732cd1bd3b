"""The whole service as a user starts it: `eda up` with a real Ray head, the real API process and real jobs on Ray.

Only the job's entry point is a small one (`tiny_job.py`): it keeps the protocol and does no model work.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from draft_files import put_draft
from running import REPOSITORY, Service, left_of
from waiting import TEST_TIMEOUT_S

from eda_service.client import Adaptation, Client
from eda_service.raycluster.processes import free_port
from eda_service.raycluster.token import auth_headers, token_path
from eda_service.raycluster.up_file import read_up

ENTRY = f"{sys.executable} {REPOSITORY / 'tests' / 'integration' / 'tiny_job.py'}"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    put_draft(home)
    settings = {
        "EDA_JOB_COMMAND": ENTRY,
        "EDA_SERVE": "false",
        "EDA_HUB_AT_SUBMIT": "skip",
        "EDA_BACKOFF_S": "0.2",
        "EDA_GRACE_S": "3",
        "EDA_DISPATCH_INTERVAL_S": "0.3",
    }
    with Service(home, settings) as running:
        yield running


def create(client: Client, outcome: str, **changes: Any) -> Adaptation:
    return client.create({"model": "org/m", "base_draft": "small", "served_name": outcome, "force": True, **changes})


def wait_for_stage(client: Client, job_id: str, stage: str) -> None:
    for job in client.watch(job_id, interval_s=0.1):
        if job.stage == stage:
            return
    raise AssertionError(f"the job ended before {stage}")


def types(client: Client, job_id: str) -> list[str]:
    return [event.type for event in client.events(job_id)]


def test_a_job_runs_through_and_the_cli_shows_it(service: Service, client: Client) -> None:
    done = service.cli("adapt", "org/m", "--base-draft", "small", "--name", "succeed", "--watch", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert (job["status"], job["stage"], job["result_pack"], job["attempt"]) == ("succeeded", "publish", "tiny@1", 1)
    assert types(client, job["id"]).count("stage_started") == 6
    assert client.logs(job["id"], stage="train") == ["log of train, attempt 1"]
    listed = service.cli("jobs", "ls")
    assert job["id"] in listed.stdout
    assert service.cli("jobs", "show", "adapt_none").returncode == 2
    assert service.cli("jobs", "ls", "--url", f"http://127.0.0.1:{free_port()}").returncode == 3
    assert service.cli("up", "--home", str(service.home)).returncode == 2


def test_a_final_error_is_not_tried_again(service: Service, client: Client) -> None:
    job = create(client, "fail")
    waited = service.cli("jobs", "wait", job.id)
    assert waited.returncode == 1
    ended = client.get(job.id)
    assert ended.attempt == 1
    assert ended.error is not None
    assert (ended.error.code, ended.error.param) == ("dataset_invalid", "dataset.source")


def test_a_lost_attempt_is_tried_again(service: Service, client: Client) -> None:
    job = service.wait_job(client, create(client, "die-once").id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert "attempt_lost" in types(client, job.id)


def test_attempts_are_finite_and_the_error_has_the_last_output(service: Service, client: Client) -> None:
    job = service.wait_job(client, create(client, "die").id)
    assert (job.status, job.attempt) == ("failed", 3)
    assert job.error is not None
    assert job.error.code == "worker_lost"
    assert "about to die" in job.error.message


def test_cancel_takes_effect_in_ten_seconds_and_leaves_no_process(client: Client) -> None:
    job = create(client, "slow")
    wait_for_stage(client, job.id, "validate")
    began = time.monotonic()
    client.cancel(job.id)
    assert client.wait(job.id, timeout_s=60, interval_s=0.1).status == "cancelled"
    assert time.monotonic() - began < 10
    left = [each for each in psutil.process_iter(["cmdline"]) if job.id in (each.info["cmdline"] or [])]
    assert left == []


def test_a_job_started_on_the_cluster_by_hand_is_a_job(service: Service, client: Client) -> None:
    body = {"entrypoint": f"{ENTRY} --job-id hand-1 --create succeed", "submission_id": "hand"}
    url = f"{service.up_file['dashboard_url']}/api/jobs/"
    assert httpx.post(url, json=body, timeout=60).status_code == 401  # the cluster has a token of its own
    headers = auth_headers(token_path(service.home))
    httpx.post(url, json=body, headers=headers, timeout=60).raise_for_status()
    service.wait_for(lambda: any(job.id == "hand-1" for job in client.page()), "the job in the list")
    job = service.wait_job(client, "hand-1")
    assert (job.status, job.result_pack) == ("succeeded", "tiny@1")


def test_a_killed_api_comes_back_and_the_job_is_unharmed(service: Service, client: Client) -> None:
    job = create(client, "slow")
    wait_for_stage(client, job.id, "validate")
    os.kill(service.up_file["pids"]["api"], signal.SIGKILL)
    service.wait_job(client, job.id)
    assert (client.get(job.id).status, client.get(job.id).attempt) == ("succeeded", 1)
    assert service.cli("jobs", "retry", job.id).returncode == 2


def test_a_killed_ray_head_comes_back_and_the_job_runs_again(service: Service, client: Client) -> None:
    job = create(client, "slow")
    wait_for_stage(client, job.id, "validate")
    os.kill(service.up_file["pids"]["ray_head"], signal.SIGKILL)
    ended = service.wait_job(client, job.id)
    assert (ended.status, ended.attempt) == ("succeeded", 2)


def test_a_killed_supervisor_leaves_nothing_that_the_next_one_does_not_stop(service: Service, client: Client) -> None:
    job = create(client, "slow")
    wait_for_stage(client, job.id, "validate")
    marks = service.up_file["marks"]
    service.child.kill()
    service.child.wait()
    service.start_again()
    assert left_of(marks) == []
    ended = service.wait_job(client, job.id)
    assert (ended.status, ended.attempt) == ("succeeded", 2)


def test_down_stops_everything(service: Service) -> None:
    marks = service.up_file["marks"]
    temp_dir = Path(service.up_file["ray_temp_dir"])
    # Ray's agents and the parts of its dashboard write their titles over their environment, and the marks in it.
    family = psutil.Process(service.child.pid).children(recursive=True)
    assert any("ray::DashboardAgent" in " ".join(each.cmdline()) for each in family)
    assert service.cli("down", "--home", str(service.home)).returncode == 0
    assert [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    assert left_of(marks) == []
    assert service.child.wait(30) == 0
    assert not temp_dir.exists()
    assert read_up(service.home) is None
    service.start_again()  # for the fixture's end, and because a home must survive being stopped
