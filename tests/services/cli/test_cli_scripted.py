"""Commands whose answers a test must choose: estimates, webhooks, priorities, following, failures of the service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from command_line import JOB, ROOT, Cli, job, job_body
from scripted_service import Answer, Request, ScriptedService, refusal, sse

ESTIMATE: dict[str, Any] = {
    "object": "adaptation.estimate",
    "measured_on": "16 prompts split off mine.jsonl",
    "device": "core",
    "stages": [
        {
            "stage": "generate",
            "placement": "pool",
            "workers": 8,
            "cpus": 0.5,
            "gpus": 1,
            "threads": 2,
            "memory_bytes": 20_100_000_000,
            "disk_bytes": 3_000_000,
            "seconds": 85.0,
        },
        {
            "stage": "select",
            "placement": "driver",
            "workers": 0,
            "cpus": 0.0,
            "gpus": 0,
            "threads": 0,
            "memory_bytes": 0,
            "disk_bytes": 0,
            "seconds": 0.0,
        },
    ],
    "disk_bytes": 2_500_000_000,
    "free_disk_bytes": 30_000_000,
    "num_samples": 320,
    "num_train_steps": 1400,
    "trainable_parameters": 2_655_360,
    "seconds": {"generate": 75.0, "train": 92.0, "evaluate": 0.0, "total": 167.0},
    "fits": False,
    "warnings": ["free [some] space"],
}


def test_an_estimate_is_a_range_that_says_what_it_rests_on(eda: Cli, scripted: ScriptedService) -> None:
    expected = {"low": 120.0, "median": 167.0, "high": 310.0, "num_jobs": 7}
    scripted.on("POST", f"{ROOT}/estimate", Answer({**ESTIMATE, "expected": expected}))
    done = eda("adapt", "org/model", "--dry-run", url=scripted.url)
    wanted = "time    2m00s to 5m10s, about 2m47s, from the last 7 jobs here (generate 1m15s, train 1m32s)"
    assert wanted in done.stdout.splitlines()


def event(number: int, kind: str) -> dict[str, Any]:
    return {
        "id": f"evt_{number}",
        "created_at": number,
        "level": "info",
        "type": kind,
        "message": "[m]",
        "stage": "train",
    }


def test_dry_run_shows_the_estimate_and_queues_nothing(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("POST", f"{ROOT}/estimate", Answer(ESTIMATE))
    done = eda("adapt", "org/model", "--preset", "demo", "--dry-run", url=scripted.url)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        "STAGE     PLACED  WORKERS  EACH                       MEMORY   DISK    TIME",
        "generate  pool    8        0.5 CPU, 1 GPU, 2 threads  20.1 GB  3.0 MB  1m25s",
        "select    driver                                                       0s",
        "",
        "disk    2.5 GB of 30.0 MB free: does not fit",
        "work    320 samples, 1,400 training steps of 2,655,360 parameters",
        "time    about 2m47s (generate 1m15s, train 1m32s)",
        "measure 16 prompts split off mine.jsonl",
        "warning: free [some] space",
    ]
    as_json = eda("adapt", "org/model", "--preset", "demo", "--dry-run", "--json", url=scripted.url)
    said = {key: value for key, value in ESTIMATE.items() if key != "object"}
    # What a service of the version before does not say is as it was then: one node, no ranges of time.
    unsaid = {"host_memory_bytes": 0, "nodes": 1, "seconds_low": None, "seconds_high": None}
    stages = [{**unsaid, **stage} for stage in said["stages"]]
    assert json.loads(as_json.stdout) == {**said, "stages": stages, "target": None, "expected": None}
    assert [(request.method, request.path) for request in scripted.requests] == [("POST", f"{ROOT}/estimate")] * 2
    assert scripted.requests[0].body["preset"] == "demo"


def test_what_adapt_sends(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("POST", ROOT, Answer(job_body(), status=201))
    options = [
        "--webhook",
        "https://example.org/hook",
        "--stage-deadline",
        "train=600",
        "--stage-deadline",
        "generate=60",
    ]
    secret = {"EDA_WEBHOOK_SECRET": "whsec_1"}
    assert eda("adapt", "org/model", *options, "--idempotency-key", "k", url=scripted.url, env=secret).exit_code == 0
    assert eda("adapt", "org/model", *options[:2], url=scripted.url).exit_code == 0
    assert eda("adapt", "org/model", url=scripted.url, env=secret).exit_code == 0
    first, second, third = scripted.seen("POST", ROOT)
    assert first.body["webhook"] == {"url": "https://example.org/hook", "secret": "whsec_1"}
    assert first.body["stage_deadlines"] == {"train": 600, "generate": 60}
    assert first.headers["idempotency-key"] == "k"
    assert second.body["webhook"] == {"url": "https://example.org/hook"}
    assert not {"webhook", "stage_deadlines", "dry_run"} & set(third.body)


def test_the_key_of_the_environment_is_sent_and_never_shown(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("GET", JOB, refusal(401, "invalid_api_key"))
    done = eda("jobs", "show", "adapt_1", url=scripted.url, env={"EDA_API_KEY": "eda_1_secret"})
    assert scripted.requests[0].headers["authorization"] == "Bearer eda_1_secret"
    assert (done.exit_code, "secret" in done.output) == (2, False)


def test_priority(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("POST", JOB, job(priority=80))
    assert eda("jobs", "priority", "adapt_1", "80", url=scripted.url).stdout == "adapt_1 queued priority 80\n"
    as_json = eda("jobs", "priority", "adapt_1", "80", "--json", url=scripted.url)
    assert json.loads(as_json.stdout)["priority"] == 80
    assert [request.body for request in scripted.requests] == [{"priority": 80}] * 2


@pytest.mark.parametrize(
    ("answer", "exit_code"),
    [
        (refusal(500, "internal"), 1),
        (refusal(429, "overloaded"), 1),
        (Answer(body=b"<html>"), 1),
        (refusal(403, "x"), 2),
    ],
)
def test_exit_code_of_an_error(eda: Cli, scripted: ScriptedService, answer: Answer, exit_code: int) -> None:
    scripted.on("GET", JOB, answer)
    assert eda("jobs", "show", "adapt_1", url=scripted.url).exit_code == exit_code


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_adapt_watch(eda: Cli, scripted: ScriptedService, status: str) -> None:
    progress = {"percent": 41.5, "step": 83, "total_steps": 200, "eta_s": 5, "updated_at": 1}
    scripted.on("POST", ROOT, Answer(job_body(), status=201))
    scripted.on("GET", JOB, job(), job("running", stage="train", progress=progress), job(status))
    done = eda("adapt", "org/model", "--watch", url=scripted.url)
    assert done.exit_code == (0 if status == "succeeded" else 1)
    assert done.stdout == "job adapt_1\n"
    assert done.stderr.splitlines() == ["queued", "running train 42%", f"adapt_1 {status}"]


@pytest.mark.parametrize(("state", "exit_code"), [("ready", 0), ("failed", 1)])
@pytest.mark.parametrize("command", [("adapt", "org/model", "--watch"), ("jobs", "watch", "adapt_1")])
def test_watching_ends_with_what_becomes_of_the_deployment(
    eda: Cli, scripted: ScriptedService, command: tuple[str, ...], state: str, exit_code: int
) -> None:
    replicas = {"min": 1, "max": 1, "running": 1}
    facts = {"name": "model", "model": "m", "replicas": replicas, "revision": 1, "created_at": 1, "updated_at": 1}
    seen = [Answer({**facts, "state": each, "job_id": "adapt_1", "reason": "no such rope"})
            for each in ("pending", "loading", state)]  # fmt: skip
    scripted.on("POST", ROOT, Answer(job_body(), status=201))
    scripted.on("GET", JOB, job("succeeded"))
    scripted.on("GET", f"/v1/deployments/{job_body()['served_name']}", *seen)
    done = eda(*command, url=scripted.url)
    assert done.exit_code == exit_code
    assert ("model is not served: no such rope" in done.stderr) == (state == "failed")


def test_events_are_followed(eda: Cli, scripted: ScriptedService) -> None:
    def answer(request: Request) -> Answer:
        if request.headers.get("accept") != "text/event-stream":
            return Answer({"data": [], "has_more": False})
        if "last-event-id" in request.headers:
            return sse(event(2, "job_failed"))
        return sse(event(1, "stage_started"), event(2, "job_failed"), cut_after=200)

    scripted.on("GET", JOB, job("failed"))
    scripted.on("GET", f"{JOB}/events", answer)
    done = eda("jobs", "events", "adapt_1", "-f", url=scripted.url)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split()[1:] for line in lines] == [
        ["info", "stage_started", "train:", "[m]"],
        ["info", "job_failed", "train:", "[m]"],
    ]
    as_json = eda("jobs", "events", "adapt_1", "--follow", "--json", url=scripted.url).stdout.splitlines()
    assert [json.loads(line)["id"] for line in as_json] == ["evt_1", "evt_2"]


def test_logs_are_followed(eda: Cli, scripted: ScriptedService) -> None:
    def answer(request: Request) -> Answer:
        after = int(request.query.get("after", 0))
        return Answer(
            {
                "id": "adapt_1",
                "stage": "train",
                "lines": [["[one]", "two"], ["three"], []][after],
                "next": min(after + 1, 2),
            }
        )

    scripted.on("GET", f"{JOB}/logs", answer)
    scripted.on("GET", JOB, job("succeeded", stage="train"))
    assert eda("jobs", "logs", "adapt_1", "-f", url=scripted.url).stdout == "[one]\ntwo\nthree\n"
    as_json = eda("jobs", "logs", "adapt_1", "-f", "--json", url=scripted.url).stdout.splitlines()
    assert [json.loads(line) for line in as_json] == [{"line": "[one]"}, {"line": "two"}, {"line": "three"}]
