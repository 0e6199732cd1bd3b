"""`eda status`: one screen of a scripted service, and its JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from command_line import Cli, job_body
from scripted_service import Answer, ScriptedService

from eda_service.cli.service import status as status_module
from eda_service.client import Client

METRICS = """# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{model_name="math",pack="math@1"}} {first}
vllm:generation_tokens_total{{model_name="math",pack="math@2"}} 7.0
vllm:generation_tokens_total{{model_name="code",pack=""}} 5.0
"""


def deployment(name: str, **fields: Any) -> dict[str, Any]:
    body = {"name": name, "state": "ready", "model": "org/model", "replicas": {"min": 1, "max": 1}, "revision": 1}
    return {**body, "created_at": 1, "updated_at": 1, **fields}


@pytest.fixture
def busy(scripted: ScriptedService) -> ScriptedService:
    """A service that trains one job and serves two names."""
    job = job_body("running", kind="adapt", stage="train", progress={
        "percent": 41.5, "step": 83, "total_steps": 200, "eta_s": 185, "updated_at": 1})  # fmt: skip
    scripted.on("GET", "/health", Answer({"status": "ok", "version": "1.2.3", "jobs": {"running": 1, "queued": 2}}))
    scripted.on("GET", "/v1/jobs", Answer({"data": [job], "has_more": False}), Answer({"data": [], "has_more": False}))
    listed = [deployment("math", pack="math@2", num_running=3), deployment("code", state="loading")]
    scripted.on("GET", "/v1/deployments", Answer({"data": listed, "has_more": False}))
    return scripted


def test_one_screen(eda: Cli, busy: ScriptedService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "_rates", lambda _client, _window_s: {"math": 21.44, "code": 0.0})
    done = eda("status", "--url", busy.url)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"page     {busy.url}/ui",
        f"service  {busy.url} is ok, version 1.2.3",
        "jobs     1 running, 2 queued",
        "",
        "RUNNING  STAGE  DONE  LEFT   MODEL",
        "adapt_1  train  42%   3m05s  org/model",
        "",
        "DEPLOYMENT  STATE    TOKENS/S  ANSWERING  PACK",
        "math        ready    21.4      3          math@2",
        "code        loading  0                    no pack",
    ]
    found = json.loads(eda("status", "--json", "--url", busy.url).stdout)
    assert found["service"] == {"url": busy.url, "page": f"{busy.url}/ui", "version": "1.2.3", "status": "ok"}
    assert [each["tokens_per_s"] for each in found["deployments"]] == [21.44, 0.0]


def test_tokens_a_second_are_counted_by_name_over_packs(
    scripted: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(status_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(status_module.time, "sleep", lambda _s: None)
    with Client(scripted.url) as client:
        read = iter([METRICS.format(first=100.0), METRICS.format(first=142.0)])
        monkeypatch.setattr(client, "metrics", lambda: next(read))
        assert status_module._rates(client, 2.0) == {"math": 21.0, "code": 0.0}
