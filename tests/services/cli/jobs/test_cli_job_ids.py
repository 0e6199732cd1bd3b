"""A job by the beginning of its id, or as the newest; and its removal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from command_line import Cli
from job_files import finish_job
from live_api import LiveApi

from eda_service.config.job import AdaptConfig
from eda_service.jobstore import Status
from eda_service.storage.runs.run import RunDir


def new_job(live: LiveApi) -> str:
    """A queued job of the local owner."""
    config = AdaptConfig.model_validate({"target": {"model": "org/model"}, "base_draft": "small@1"})
    return live.store.jobs.create(config, owner="local", force=True)[0].id


def show(eda: Cli, live: LiveApi, *words: str) -> Any:
    done = eda("jobs", "show", *words, "--json", url=live.url)
    return json.loads(done.stdout)["id"] if done.exit_code == 0 else (done.exit_code, done.stderr)


def test_a_unique_beginning_and_the_newest(eda: Cli, live: LiveApi) -> None:
    older, newer = new_job(live), new_job(live)
    common = len([1 for a, b in zip(older, newer, strict=True) if a == b])
    length = next(place for place in range(len(newer)) if older[:place] != newer[:place])
    assert show(eda, live, newer[:length]) == newer
    assert show(eda, live, newer) == newer
    assert show(eda, live, "--last") == newer
    code, told = show(eda, live, newer[:8])
    assert code == 2
    assert f"several jobs begin with {newer[:8]}: {newer} (queued, org/model), " in told
    assert "write more of the id" in told
    assert show(eda, live, "adapt_0ZZZ")[0] == 2
    assert common < len(newer)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("jobs", "show"), "give a job id, or --last"),
        (("jobs", "show", "adapt_1", "--last"), "give either a job id or --last"),
        (("jobs", "priority", "--last"), "give a priority of 0 to 100"),
        (("jobs", "priority", "high", "--last"), "priority is 'high'; it must be a whole number of 0 to 100"),
        (("report",), "give a job id, or --last"),
    ],
)
def test_what_is_missing_is_told(eda: Cli, live: LiveApi, words: tuple[str, ...], told: str) -> None:
    done = eda(*words, url=live.url)
    assert done.exit_code == 2
    assert told in done.stderr


def test_priority_of_the_newest(eda: Cli, live: LiveApi) -> None:
    job_id = new_job(live)
    assert eda("jobs", "priority", "80", "--last", url=live.url).stdout == f"{job_id} queued priority 80\n"
    assert live.store.jobs.get(job_id).priority == 80


def test_rm_takes_the_row_and_the_directory(eda: Cli, live: LiveApi) -> None:
    job_id = new_job(live)
    live_one = eda("jobs", "rm", job_id, url=live.url)
    assert (live_one.exit_code, "cancel it" in live_one.stderr) == (2, True)
    live.store.jobs.transition(job_id, Status.CANCELLED, event="job_cancelled", message="by the test")
    run = RunDir.of_job(job_id, live.home)
    run.create(live.store.jobs.get(job_id).task(), origin="api")
    (run.root / "train").mkdir()
    (run.root / "train" / "weights").write_bytes(bytes(2500))
    kept = sum(path.stat().st_size for path in run.root.rglob("*") if path.is_file() and path.name != "job.json")
    done = eda("jobs", "rm", job_id, "--json", url=live.url)
    gone = json.loads(done.stdout)
    assert (gone["id"], gone["freed_bytes"]) == (job_id, kept)
    assert not run.root.exists()
    assert not live.store.jobs.has(job_id)
    again = eda("jobs", "rm", job_id, url=live.url)
    assert (again.exit_code, "no job" in again.stderr) == (2, True)


def test_rm_leaves_what_a_pack_needs(eda: Cli, live: LiveApi) -> None:
    job = finish_job(live.store, live.home, live.store.jobs.get(new_job(live)))
    done = eda("jobs", "rm", job.id, url=live.url)
    assert done.exit_code == 2
    assert f"published {job.result_pack}" in done.stderr
    assert "eda gc" in done.stderr
    assert RunDir.of_job(job.id, live.home).is_job
    assert live.store.jobs.get(job.id).status is Status.SUCCEEDED
