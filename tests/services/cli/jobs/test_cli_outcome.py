"""What a job ends on: before and after against the records that a real job left, its cost, and what comes next."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from command_line import JOB, Cli, job, job_body
from job_files import finish_job, record_of
from live_api import BODY, LiveApi
from rich.console import Console
from scripted_service import ScriptedService

from eda_service.cli.jobs import view
from eda_service.cli.jobs.outcome import bar, bars_text
from eda_service.client import Adaptation, Client, Cost, DraftNumbers, Outcome
from eda_service.measured_rows import SpeedRow
from eda_service.records import EvalReport, Stage
from eda_service.storage.runs.run import RunDir

SPEEDS = tuple(
    SpeedRow(
        mode=mode,
        num_draft_tokens=0 if mode == "autoregressive" else 5,
        temperature=0.0,
        tokens_per_s=rate,
        speedup_over_autoregressive=rate / 20.0,
        speedup_min=1.0,
        speedup_max=2.0,
    )
    for mode, rate in (("autoregressive", 20.0), ("base_draft", 22.0), ("adapted_draft", 38.5))
)


@pytest.fixture
def finished(live: LiveApi) -> str:
    body = {**BODY, "force": True, "metadata": {"of": "outcome"}}
    created = httpx.post(f"{live.url}/v1/adaptations", json=body).json()
    job_id = finish_job(live.store, live.home, live.store.jobs.get(created["id"])).id
    run = RunDir.of_job(job_id, live.home)
    report = run.read_record(EvalReport, Stage.EVALUATE, verify=False)
    assert report is not None
    run.write_record(report.model_copy(update={"speed": SPEEDS}))
    return job_id


def test_list_show_and_watch_end_on_before_and_after(eda: Cli, live: LiveApi, finished: str) -> None:
    report = record_of(Stage.EVALUATE)
    accepted = {row["draft"]: row for row in report["acceptance"] if row["temperature"] == 0.0}
    before, after = accepted["base_draft"]["acceptance_length"], accepted["adapted_draft"]["acceptance_length"]
    row = eda("jobs", "ls", "--metadata", "of=outcome", url=live.url).stdout
    assert f"{before:.2f} > {after:.2f}  22.0 > 38.5  1.10 > 1.93" in row
    shown = eda("jobs", "show", finished, url=live.url).stdout
    watched = eda("jobs", "watch", finished, url=live.url).stderr
    for said in (shown, watched):
        lines = {line.split()[0]: line.split() for line in said.splitlines() if line}
        assert lines["acceptance"][1:4] == [f"{before:.2f}", f"{after:.2f}", f"{after / before - 1:+.0%},"]
        assert lines["tokens/s"][1:3] == ["22.0", "38.5"]
        assert "+75%, 20.0 without a draft at T=0" in said
        assert lines["speedup"][1:3] == ["1.10x", "1.93x"]
        assert lines["measured"][:2] == ["measured", "on"]
        assert [line.split()[0] for line in said.splitlines()[-3:]] == ["ask", "report", "page"]
        assert said.splitlines()[-3].split()[2:4] == ["eda", "chat"]
        assert said.splitlines()[-1].split()[1] == f"{live.url}/ui/jobs/{finished}"
    detail = json.loads(eda("jobs", "show", finished, "--json", url=live.url).stdout)["outcome"]
    # validate 20 s, generate 300 s, select 0.7 s, and what the real job took to train and to evaluate
    seconds = 20 + 300 + 0.7 + record_of(Stage.TRAIN)["seconds"] + report["seconds"]
    assert detail["cost"]["seconds"] == pytest.approx(seconds)
    run = RunDir.of_job(finished, live.home).root
    assert detail["cost"]["disk_bytes"] == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    listed = json.loads(eda("jobs", "ls", "--metadata", "of=outcome", "--json", url=live.url).stdout)
    assert listed[0]["outcome"]["cost"]["disk_bytes"] is None


def test_a_running_job_says_how_long_it_has_run_and_still_runs(eda: Cli, scripted: ScriptedService) -> None:
    remaining = {"low_s": 150, "high_s": 500, "num_jobs": 7}
    running = job("running", stage="train", elapsed_s=65, remaining=remaining)
    scripted.on("GET", JOB, running)
    wanted = "elapsed 1m05s, 2m30s to 8m20s left, from the last 7 jobs here"
    assert wanted in eda("jobs", "show", "adapt_1", url=scripted.url).stdout.splitlines()
    scripted.on("GET", JOB, running, job("failed", elapsed_s=90))
    watched = eda("jobs", "watch", "adapt_1", url=scripted.url)
    assert watched.stderr.splitlines()[0] == f"running train  {wanted}"


def test_a_service_of_before_says_nothing_of_it(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("GET", JOB, job("succeeded"))
    shown = eda("jobs", "show", "adapt_1", url=scripted.url)
    assert shown.exit_code == 0
    assert "acceptance" not in shown.stdout.lower()
    assert "report" not in shown.stdout


def test_bars_are_to_scale() -> None:
    assert bar(1.0) == "█" * 32
    assert bar(0.5) == "█" * 16
    assert bar(1 / 256) == "▏"
    assert bar(0.0) == ""
    slow = DraftNumbers(acceptance_length=2.0, acceptance_rate=0.2, tokens_per_s=20.0, speedup=0.8)
    fast = DraftNumbers(acceptance_length=3.0, acceptance_rate=0.4, tokens_per_s=40.0, speedup=1.6)
    found = Outcome(before=slow, after=fast, temperature=0.0, cost=Cost(seconds=1.0, core_hours=0.1, gpu_hours=0.0))
    before, after = bars_text(found).splitlines()
    assert (before.count("█"), after.count("█")) == (16, 32)
    assert before.endswith("20.0 tokens/s")
    untimed = found.model_copy(update={"before": slow.model_copy(update={"tokens_per_s": None})})
    assert bars_text(untimed).splitlines()[1].endswith("3.00 tokens a round")


def test_a_terminal_shows_the_whole_job_beside_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(view, "err", Console(file=screen, force_terminal=True, width=140))
    remaining = {"low_s": 150, "high_s": 500, "num_jobs": 1}
    running = Adaptation.model_validate(job_body("running", stage="train", elapsed_s=65, remaining=remaining))
    client = cast(Client, SimpleNamespace(watch=lambda _: iter([running])))  # what is drawn last is drawn for sure
    view.watch(client, "adapt_1")
    # 65 s of 65 s and the middle of what is left, 325 s
    assert " 17% elapsed 1m05s, 2m30s to 8m20s left, from the one job that has ended here" in screen.getvalue()
