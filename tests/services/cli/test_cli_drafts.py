"""`eda drafts ...` and `eda measure`: what is sent, what is shown, and the exit codes."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from command_line import Cli
from live_api import LiveApi
from scripted_service import Answer, ScriptedService, refusal

from eda_service.config.job import TargetSpec
from eda_service.config.tasks import ImportConfig

JOB: dict[str, Any] = {
    "id": "import_1", "kind": "import_draft", "status": "queued", "model": "org/base", "created_at": 1, "attempt": 1,
    "max_attempts": 3,
}  # fmt: skip
CHECK = {
    "num_prompts": 20,
    "num_positions": 512,
    "declared": {"overrides": {}, "agreement": [0.1, 0.05], "acceptance_length": 1.12},
    "others": [{"overrides": {"layers": "[2, 4]"}, "agreement": [0.5], "acceptance_length": 2.05}],
}
DRAFT: dict[str, Any] = {
    "id": "ours@1", "name": "ours", "version": 1, "kind": "eagle3", "dialect": "specforge", "model": "org/base",
    "source": "org/draft@abc", "acceptance_length": 1.12, "best_acceptance_length": 2.05,
    "best_reading": {"layers": "[2, 4]"}, "assumed": ["rope_theta = 10000: not said"], "check": CHECK,
    "packs": ["math@2"],
}  # fmt: skip
EVENT = {"id": "evt_1", "created_at": 1, "level": "warning", "type": "assumed", "message": "rope_theta = 10000"}


def page(*data: dict[str, Any]) -> Answer:
    return Answer({"data": list(data), "has_more": False, "last_id": None})


def test_an_import_sends_what_was_asked_for(eda: Cli, scripted: ScriptedService, tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    scripted.on("POST", "/v1/drafts", Answer(JOB, status=202))
    done = eda(
        "drafts", "import", str(tmp_path / "draft"), "--target", "org/base", "--name", "ours", "--set", "layers=[2, 4]",
        "--set", "rope_theta=5e5", "--no-check", "--idempotency-key", "k", url=scripted.url,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "import_1 queued; watch it with `eda jobs watch import_1`" in done.stdout
    (sent,) = scripted.seen("POST", "/v1/drafts")
    assert sent.headers["idempotency-key"] == "k"
    assert sent.body == {
        "source": str(tmp_path / "draft"), "model": "org/base", "name": "ours", "check": False, "force": False,
        "overrides": {"layers": "[2, 4]", "rope_theta": "5e5"},
    }  # fmt: skip
    assert eda("drafts", "import", "a/b", "--target", "c/d", "--set", "layers", url=scripted.url).exit_code == 2


def test_a_watched_import_ends_with_the_draft_or_with_code_1(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("POST", "/v1/drafts", Answer(JOB, status=202))
    scripted.on("GET", "/v1/jobs/import_1", Answer(JOB | {"status": "succeeded", "result": "ours@1"}))
    scripted.on("GET", "/v1/jobs/import_1/events", page(EVENT))
    scripted.on("GET", "/v1/drafts/ours@1", Answer(DRAFT))
    done = eda("drafts", "import", "org/draft", "--target", "org/base", "--watch", url=scripted.url)
    assert done.exit_code == 0, done.stderr
    assert "warning: rope_theta = 10000" in done.stderr
    assert "registered ours@1" in done.stderr
    assert "assumed: rope_theta = 10000: not said" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["as", "declared", "1.12", "10.0%", "5.0%"] in rows
    assert ["layers=[2,", "4]", "(best)", "2.05", "50.0%"] in rows
    assert "--set 'layers=[2, 4]'" in done.stdout
    error = {"code": "draft_incompatible", "message": "a Medusa head", "param": "source"}
    scripted.on("GET", "/v1/jobs/import_1", Answer(JOB | {"status": "failed", "error": error}))
    done = eda("drafts", "import", "org/draft", "--target", "org/base", "--watch", "--json", url=scripted.url)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["message"] == "a Medusa head"
    assert "draft_incompatible: a Medusa head" in done.stderr


def test_drafts_are_listed_shown_and_removed(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("GET", "/v1/drafts", page(DRAFT, {"id": "small@1", "name": "small", "version": 1, "shipped": True}))
    done = eda("drafts", "ls", url=scripted.url)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1] == ["ours@1", "eagle3", "specforge", "1.12", "2.05", "*", "org/base", "org/draft@abc"]
    assert rows[2] == ["small@1", "?", "?", "shipped"]
    assert [each["id"] for each in json.loads(eda("drafts", "ls", "--json", url=scripted.url).stdout)] == [
        "ours@1", "small@1",
    ]  # fmt: skip
    scripted.on("GET", "/v1/drafts/ours@1", Answer(DRAFT))
    shown = eda("drafts", "show", "ours@1", url=scripted.url)
    assert "pack: math@2" in shown.stdout
    assert json.loads(eda("drafts", "show", "ours@1", "--json", url=scripted.url).stdout)["packs"] == ["math@2"]
    scripted.on("DELETE", "/v1/drafts/ours@1", Answer({"id": "ours@1", "deleted": True}))
    assert eda("drafts", "rm", "ours@1", url=scripted.url).exit_code == 0
    scripted.on("DELETE", "/v1/drafts/ours@1", refusal(409, "conflict"))
    assert eda("drafts", "rm", "ours@1", url=scripted.url).exit_code == 2
    assert eda("drafts", "rm", "a/b", url=scripted.url).exit_code == 2
    assert eda("drafts", "ls", url="http://127.0.0.1:9").exit_code == 3


def test_a_check_and_a_measurement_print_their_result(eda: Cli, scripted: ScriptedService) -> None:
    job = JOB | {"id": "measure_1", "kind": "measure", "status": "succeeded", "result": "measure_1"}
    scripted.on("POST", "/v1/measurements", Answer(job, status=202))
    scripted.on("GET", "/v1/jobs/measure_1", Answer(job))
    scripted.on("GET", "/v1/jobs/measure_1/events", page())
    body = job | {"draft": "ours@1", "measurement": {"num_prompts": 20, "check": CHECK}}
    scripted.on("GET", "/v1/measurements/measure_1", Answer(body))
    done = eda("drafts", "check", "ours@1", "--target", "org/base", "--watch", url=scripted.url)
    assert done.exit_code == 0, done.stderr
    assert "layers=[2, 4] (best)" in done.stdout
    (sent,) = scripted.seen("POST", "/v1/measurements")
    assert (sent.body["check"], sent.body["dataset"]) == (True, {"source": "self", "num_prompts": 20})
    row = {"draft": "base_draft", "temperature": 0.0, "acceptance_length": 2.5, "acceptance_rate": 0.3}
    speed = {"mode": "base_draft", "temperature": 0.0, "tokens_per_s": 40.0, "speedup_over_autoregressive": 1.7}
    found = {"num_prompts": 8, "acceptance": [row | {"acceptance_by_position": [0.7, 0.5]}], "speed": [speed],
             "coverage": 0.934, "advice": "Adapt it."}  # fmt: skip
    scripted.on("GET", "/v1/measurements/measure_1", Answer(job | {"draft": "ours@1", "measurement": found}))
    done = eda(
        "measure", "org/tuned", "--draft", "ours@1", "--pack", "math@2", "--base-target", "org/base", "--data", "self",
        "--num-prompts", "8", "--temperature", "0", "--watch", url=scripted.url,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["this", "0", "base_draft", "2.50", "30.0%", "70%", "50%"] in rows
    assert ["base_draft", "0", "40.0", "1.70"] in rows
    assert "coverage 93.4%" in done.stdout
    assert rows[-1] == ["Adapt", "it."]
    assert scripted.seen("POST", "/v1/measurements")[1].body == {
        "model": "org/tuned", "draft": "ours@1", "pack": "math@2", "base_model": "org/base", "temperatures": [0.0],
        "dataset": {"source": "self", "num_prompts": 8}, "force": False,
    }  # fmt: skip


def test_the_commands_of_jobs_take_every_kind(eda: Cli, live: LiveApi) -> None:
    queued = eda("measure", "org/model", "--draft", "small@1", "--json", url=live.url)
    assert queued.exit_code == 0, queued.stderr
    job_id = json.loads(queued.stdout)["id"]
    listed = json.loads(eda("jobs", "ls", "--kind", "measure", "--json", url=live.url).stdout)
    assert [job["id"] for job in listed] == [job_id]
    assert job_id not in eda("jobs", "ls", url=live.url).stdout
    assert "measure" in eda("jobs", "show", job_id, url=live.url).stdout
    assert "job_created" in eda("jobs", "events", job_id, url=live.url).stdout
    assert eda("jobs", "logs", job_id, url=live.url).exit_code == 0
    assert eda("jobs", "logs", job_id, "-f", url=live.url).exit_code == 2
    assert json.loads(eda("jobs", "cancel", job_id, "--json", url=live.url).stdout)["status"] == "cancelled"
    assert eda("jobs", "watch", job_id, url=live.url).exit_code == 1
    assert eda("jobs", "wait", job_id, url=live.url).exit_code == 1
    assert "job_cancelled" in eda("jobs", "events", job_id, "-f", url=live.url).stdout
    shown = eda("drafts", "ls", "--json", url=live.url)
    assert {draft["id"] for draft in json.loads(shown.stdout)} >= {"small@1", "smollm2-135m@3"}


def test_a_task_under_an_id_of_ones_own_is_found_by_every_command(eda: Cli, live: LiveApi) -> None:
    """Started on the cluster by hand, as `python -m jobs.import_draft --job-id` lets one."""
    name = f"mine-{uuid.uuid4().hex[:8]}"
    config = ImportConfig(source="org/draft", target=TargetSpec(model="org/base"))
    live.store.adoption.adopt(name, config, created_at=int(time.time()))
    shown = eda("jobs", "show", name, url=live.url)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.splitlines()[1].split()[:2] == [name, "import_draft"]
    events = eda("jobs", "events", name, "--json", url=live.url)
    assert json.loads(events.stdout.splitlines()[0])["type"] == "job_adopted"
    assert eda("jobs", "logs", name, "--json", url=live.url).stdout.strip() == "[]"
    refused = eda("jobs", "priority", name, "80", url=live.url)  # it runs already
    assert (refused.exit_code, "queued" in refused.stderr) == (2, True)
    assert "cancel" in eda("jobs", "cancel", name, url=live.url).stdout
    assert "by hand" in eda("jobs", "retry", name, url=live.url).stderr
    nothing = eda("jobs", "show", "nobodys", url=live.url)
    assert (nothing.exit_code, "no job 'nobodys'" in nothing.stderr) == (2, True)


def test_every_import_is_listed_page_by_page(eda: Cli, scripted: ScriptedService) -> None:
    first = [JOB | {"id": f"import_{n}"} for n in range(100)]
    pages = [(first, True), ([JOB | {"id": "import_last"}], False)]
    answers = [Answer({"data": data, "has_more": more, "last_id": data[-1]["id"]}) for data, more in pages]
    scripted.on("GET", "/v1/jobs", *answers)
    listed = eda("jobs", "ls", "--kind", "import_draft", "--all", "--json", url=scripted.url)
    assert [each["id"] for each in json.loads(listed.stdout)] == [*(each["id"] for each in first), "import_last"]
    assert [each.query.get("after") for each in scripted.seen("GET", "/v1/jobs")] == [None, "import_99"]
    scripted.on("GET", "/v1/jobs", answers[0])
    listed = eda("jobs", "ls", "--kind", "import_draft", "--limit", "100", url=scripted.url)
    assert listed.stderr == "there are more; --all lists them\n"
