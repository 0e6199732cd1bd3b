"""Ctrl-C while following: the command leaves with 0 and says how to come back; nothing is sent that changes the job."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from command_line import JOB, ROOT, Cli, job, job_body
from scripted_service import Answer, ScriptedService, sse

from eda_service.cli.console import detachable
from eda_service.client import ServiceUnreachableError

EVENT = {"id": "evt_1", "created_at": 1, "level": "info", "type": "note", "message": "first", "stage": None}


@pytest.mark.parametrize(
    ("command", "waits_on"),
    [
        (("jobs", "watch", "adapt_1"), JOB),
        (("jobs", "wait", "adapt_1"), JOB),
        (("jobs", "logs", "adapt_1", "-f"), JOB),
        (("jobs", "events", "adapt_1", "-f"), f"{JOB}/events"),
        (("adapt", "org/model", "--watch"), JOB),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_ctrl_c_detaches(eda: Cli, scripted: ScriptedService, command: tuple[str, ...], waits_on: str) -> None:
    scripted.on("POST", ROOT, Answer(job_body(), status=201))
    scripted.on("GET", JOB, job("running", stage="train"))
    scripted.on("GET", f"{JOB}/logs", Answer({"stage": "train", "lines": [], "next": 0}))
    scripted.on("GET", f"{JOB}/events", sse(EVENT, pause_s=60.0))
    child = eda.start(*command, "--url", scripted.url)
    try:
        scripted.wait_seen("GET", waits_on, 1)
        if command[1] == "events":
            assert child.stdout is not None
            assert "first" in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == 0, stderr
    assert stderr.splitlines()[-1] == (
        f"detached; the job goes on, come back with `eda jobs watch adapt_1 --url {scripted.url}`"
    )
    assert "Traceback" not in stdout + stderr
    assert {request.path for request in scripted.requests if request.method == "POST"} <= {ROOT, f"{ROOT}/estimate"}


def test_a_service_that_went_away_goes_on_with_the_job_later() -> None:
    """The client itself asks for a minute before it gives up, which this test need not."""
    with pytest.raises(ServiceUnreachableError) as caught, detachable("adapt_1", "http://a b"):
        raise ServiceUnreachableError("nothing answers; start the service with `eda up`")
    assert caught.value.message == (
        "nothing answers; start the service with `eda up`; it then goes on with the job from its last record: "
        "`eda jobs watch adapt_1 --url 'http://a b'`"
    )


def test_the_line_names_no_url_where_none_was_given(eda: Cli, scripted: ScriptedService) -> None:
    home = Path(eda.env["EDA_HOME"])
    home.mkdir()
    (home / "up.json").write_text(json.dumps({"api_url": scripted.url}))
    scripted.on("GET", JOB, job("running"))
    child = eda.start("jobs", "wait", "adapt_1")
    try:
        scripted.wait_seen("GET", JOB, 1)
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == 0
    assert stderr == "detached; the job goes on, come back with `eda jobs watch adapt_1`\n"
