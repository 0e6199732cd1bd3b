"""`eda jobs samples` against the real service: on the screen, as JSON and as a file."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from command_line import Cli
from job_files import NUM_KEPT, NUM_SAMPLES, finish_job, keep_samples
from live_api import BODY, LiveApi

from eda_service.cli.jobs.samples import one_line, sample_text
from eda_service.client import Sample
from eda_service.storage.runs.run import RunDir


@pytest.fixture
def finished(live: LiveApi) -> str:
    job = httpx.post(f"{live.url}/v1/adaptations", json={**BODY, "force": True}).json()
    done = finish_job(live.store, live.home, live.store.jobs.get(job["id"])).id
    keep_samples(RunDir.of_job(done, live.home))
    return done


def test_they_are_shown_written_and_counted(eda: Cli, live: LiveApi, finished: str, tmp_path: Path) -> None:
    shown = eda("jobs", "samples", finished, "--dropped", "--limit", "2", url=live.url)
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"smp_{NUM_KEPT + 1}  dropped  value ")
    assert lines[1].startswith("    asked     <b>question</b> s")
    assert lines[2].startswith("    answered  <i>answer</i> s")
    assert lines[-1].startswith("2 shown; the job kept 160, from value ")
    path = tmp_path / "all.jsonl"
    done = eda("jobs", "samples", finished, "--out", str(path), url=live.url)
    assert (done.exit_code, done.stdout.strip()) == (0, str(path))
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [each["id"] for each in written] == [f"smp_{rank}" for rank in range(1, NUM_SAMPLES + 1)]
    as_json = eda("jobs", "samples", finished, "--kept", "--limit", "130", "--json", url=live.url)
    assert json.loads(as_json.stdout) == [each for each in written if each["kept"]][:130]


def test_a_value_goes_by_its_name() -> None:
    sample = Sample(id="smp_1", sample_id="s", kept=True, sample_value=0.4321)
    assert sample_text(sample).startswith("smp_1  kept  value 0.43  ")
    assert sample_text(sample, "draft loss").startswith("smp_1  kept  draft loss 0.43  ")


def test_what_a_model_wrote_does_not_steer_the_terminal() -> None:
    assert one_line("a\x1b[2Jb\r\n\tc\u202e") == "a [2Jb c"
    assert one_line("x" * 1000) == "x" * 239 + "…"
