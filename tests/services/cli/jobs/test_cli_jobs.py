"""`eda adapt` and `eda jobs` against the real application: output, JSON and exit codes."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from command_line import Cli
from live_api import LiveApi

from eda_service.capacity import Capacity, Machines
from eda_service.jobstore import Status
from eda_service.raycluster.processes import free_port
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir


def adapt(eda: Cli, live: LiveApi, *options: str) -> dict[str, Any]:
    """Queue a job by the command; returns its JSON."""
    done = eda("adapt", "org/model", "--base-draft", "small@1", "--force", "--json", *options, url=live.url)
    assert done.exit_code == 0, done.stderr
    job: dict[str, Any] = json.loads(done.stdout)
    return job


def test_adapt_makes_the_job_that_was_asked_for(eda: Cli, live: LiveApi) -> None:
    options = [
        "--data",
        "reasoning-gym:gsm_symbolic",
        "--num-prompts",
        "64",
        "--seed",
        "3",
        "--priority",
        "70",
        "--name",
        "math",
    ]
    job = adapt(
        eda, live, *options, "--metadata", "team=math", "--set", "train.epochs=2", "--set", "train.zero_stage=0"
    )
    assert (job["status"], job["served_name"], job["priority"]) == ("queued", "math", 70)
    assert job["metadata"] == {"team": "math"}
    config = job["config"]
    assert (config["dataset"]["source"], config["dataset"]["num_prompts"]) == ("reasoning-gym:gsm_symbolic", 64)
    assert (config["train"]["epochs"], config["train"]["zero_stage"], config["seed"]) == (2, 0, 3)


def test_adapt_says_whether_and_when_to_deploy(eda: Cli, live: LiveApi) -> None:
    deploy = adapt(eda, live, "--no-deploy", "--min-gain", "1.1")["config"]["deploy"]
    assert (deploy["enabled"], deploy["min_gain"]) == (False, 1.1)
    assert adapt(eda, live)["config"]["deploy"]["enabled"]
    assert eda("adapt", "org/model", "--min-gain", "-1", url=live.url).exit_code == 2


def test_adapt_says_how_to_watch(eda: Cli, live: LiveApi) -> None:
    done = eda("adapt", "org/model", "--base-draft", "small@1", "--force", url=live.url)
    assert done.exit_code == 0
    job_id = done.stdout.split()[0]
    assert done.stdout == f"{job_id} queued; watch it with `eda jobs watch {job_id}`\n"


def test_adapt_with_a_key_is_one_job(eda: Cli, live: LiveApi) -> None:
    key = uuid.uuid4().hex
    assert adapt(eda, live, "--idempotency-key", key)["id"] == adapt(eda, live, "--idempotency-key", key)["id"]
    assert adapt(eda, live)["id"] != adapt(eda, live)["id"]
    other = eda("adapt", "org/other", "--base-draft", "small@1", "--idempotency-key", key, url=live.url)
    assert (other.exit_code, "Idempotency-Key" in other.stderr) == (2, True)


def test_ls(eda: Cli, live: LiveApi) -> None:
    label = f"test={uuid.uuid4().hex}"
    ids = [adapt(eda, live, "--metadata", label)["id"] for _ in range(3)]
    assert eda("jobs", "cancel", ids[0], url=live.url).stdout == f"{ids[0]} cancelled\n"
    listed = eda("jobs", "ls", "--metadata", label, "--limit", "2", url=live.url)
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [[ids[2], "queued"], [ids[1], "queued"]]
    assert listed.stderr == "there are more; --all lists them\n"
    every = eda("jobs", "ls", "--metadata", label, "--limit", "1", "--all", "--json", url=live.url)
    assert [job["id"] for job in json.loads(every.stdout)] == ids[::-1]
    cancelled = eda("jobs", "ls", "--metadata", label, "--status", "cancelled", "--json", url=live.url)
    assert [job["id"] for job in json.loads(cancelled.stdout)] == ids[:1]
    assert eda("jobs", "ls", "--metadata", "test=nothing", url=live.url).stdout == "no jobs\n"


def test_cancel_retry_and_events(eda: Cli, live: LiveApi) -> None:
    job_id = adapt(eda, live)["id"]
    assert json.loads(eda("jobs", "cancel", job_id, "--json", url=live.url).stdout)["status"] == "cancelled"
    assert eda("jobs", "retry", job_id, url=live.url).stdout == f"{job_id} queued\n"
    assert eda("jobs", "retry", job_id, url=live.url).exit_code == 2
    events = eda("jobs", "events", job_id, url=live.url).stdout.splitlines()
    assert [line.split()[2] for line in events] == ["job_created", "job_cancelled", "job_retried"]
    lines = eda("jobs", "events", job_id, "--json", url=live.url).stdout.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["job_created", "job_cancelled", "job_retried"]


def test_logs(eda: Cli, live: LiveApi) -> None:
    job_id = adapt(eda, live)["id"]
    run = RunDir.of_job(job_id, live.home)
    run.log_path(Stage.TRAIN).write_text("one\n[two]\n")
    run.log_path(Stage.GENERATE).write_text("earlier\n")
    assert eda("jobs", "logs", job_id, url=live.url).stdout == "one\n[two]\n"
    assert eda("jobs", "logs", job_id, "--tail", "1", url=live.url).stdout == "[two]\n"
    found = eda("jobs", "logs", job_id, "--stage", "generate", "--json", url=live.url)
    assert json.loads(found.stdout) == ["earlier"]
    assert eda("jobs", "logs", job_id, "--stage", "party", url=live.url).exit_code == 2


@pytest.mark.parametrize("command", ["wait", "watch"])
@pytest.mark.parametrize("end", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_exit_code_of_an_ended_job(eda: Cli, live: LiveApi, command: str, end: Status) -> None:
    job_id = adapt(eda, live)["id"]
    error = {"code": "out_of_memory", "message": "no [memory]"} if end is Status.FAILED else None
    pack = "math@1" if end is Status.SUCCEEDED else None
    if end is Status.SUCCEEDED:  # from queued there is no such move
        live.store.jobs.transition(job_id, Status.RUNNING, event="note", message="")
        live.store.jobs.transition(job_id, Status.CANCELLING, event="note", message="")
    live.store.jobs.transition(job_id, end, event="job_ended", message="", error=error, result_pack=pack)
    done = eda("jobs", command, job_id, "--json", url=live.url)
    assert done.exit_code == (0 if end is Status.SUCCEEDED else 1)
    assert json.loads(done.stdout)["status"] == end.value
    assert done.stderr.startswith(f"{job_id} {end.value}")
    assert ("out_of_memory: no [memory]" in done.stderr) is (error is not None)
    shown = eda("jobs", "show", job_id, url=live.url)
    assert (shown.exit_code, end.value in shown.stdout) == (0, True)


def test_show_says_what_a_job_waits_for(eda: Cli, live: LiveApi) -> None:
    job_id = adapt(eda, live, "--set", "seed=77")["id"]
    assert "waits:" not in eda("jobs", "show", job_id, url=live.url).stdout
    live.store.leases.tell_misfits(Machines(Capacity(cpus=0.2, gpus=0)))
    waits = live.store.jobs.get(job_id).waits_for
    assert eda("jobs", "show", job_id, url=live.url).stdout.splitlines()[-1] == f"waits: {waits}"


@pytest.mark.parametrize("command", ["wait", "watch", "show"])
@pytest.mark.parametrize("kept", [None, "too little gain: [1.000]"])
def test_the_end_says_what_was_measured_and_what_became_of_the_pack(
    eda: Cli, live: LiveApi, command: str, kept: str | None
) -> None:
    job_id = adapt(eda, live, "--data", "reasoning-gym:gsm_symbolic", "--name", "math")["id"]
    live.store.jobs.transition(job_id, Status.RUNNING, event="note", message="")
    live.store.jobs.transition(
        job_id, Status.SUCCEEDED, event="job_succeeded", message="", result_pack="math@2", deployment_kept=kept
    )
    done = eda("jobs", command, job_id, url=live.url)
    told = (done.stdout if command == "show" else done.stderr).replace("\n", " ")
    assert "published math@2 (measured on 16 prompts split off reasoning-gym:gsm_symbolic), " in told
    assert ("served as math" in told) is (kept is None)
    assert (f"not deployed: {kept}" in told) is (kept is not None)


def test_wait_has_a_limit(eda: Cli, live: LiveApi) -> None:
    job_id = adapt(eda, live)["id"]
    done = eda("jobs", "wait", job_id, "--timeout", "0.1", url=live.url)
    assert done.exit_code == 1
    assert f"{job_id} is still queued" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "show", "adapt_none"),
        ("jobs", "watch", "adapt_none"),
        ("jobs", "show", "no job"),
        ("jobs", "ls", "--status", "odd"),
        ("jobs", "ls", "--metadata", "no-value"),
        ("jobs", "priority", "adapt_none", "101"),
        ("jobs", "logs", "adapt_none", "-f"),
        ("adapt", "org/model", "--base-draft", "nobody@1"),
        ("adapt", "org/model", "--set", "train"),
        ("adapt", "org/model", "--set", "train.=1"),
        ("adapt", "org/model", "--set", "train=1", "--set", "train.epochs=2"),
        ("adapt", "org/model", "--stage-deadline", "party=3"),
        ("adapt", "org/model", "--stage-deadline", "train=soon"),
        ("adapt", "org/model", "--idempotency-key", "two words"),
        ("jobs", "ls", "--url", "localhost:8700"),
        ("jobs", "no-such-command"),
    ],
)
def test_bad_input_is_2(eda: Cli, live: LiveApi, arguments: tuple[str, ...]) -> None:
    done = eda(*arguments, url=live.url)
    assert done.exit_code == 2, done.stderr
    assert done.stdout == ""
    assert "rror" in done.stderr


@pytest.mark.parametrize("arguments", [("jobs", "ls"), ("jobs", "show", "adapt_1"), ("adapt", "org/model")])
def test_nobody_there_is_3(eda: Cli, arguments: tuple[str, ...]) -> None:
    done = eda(*arguments, url=f"http://127.0.0.1:{free_port()}")
    assert (done.exit_code, "nothing answers" in done.stderr) == (3, True)


def test_errors_are_json_where_json_was_asked_for(eda: Cli, live: LiveApi) -> None:
    done = eda("jobs", "show", "adapt_none", "--json", url=live.url)
    error = json.loads(done.stderr)["error"]
    assert (done.exit_code, done.stdout, error["code"], error["param"]) == (2, "", "not_found", "id")
    assert error["request_id"].startswith("req_")


def test_the_service_of_the_home_is_found(eda: Cli, live: LiveApi, tmp_path: Any) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "up.json").write_text(json.dumps({"api_url": live.url}))
    assert eda("jobs", "ls", "--status", "running").stdout == "no jobs\n"
    assert eda("models", "ls", "--json").stdout.startswith('{"served": []')
