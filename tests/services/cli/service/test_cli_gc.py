"""`eda gc` over real directories: what goes is what was written as needless here, and everything else stays."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from draft_files import put_draft
from job_files import finish_job

from eda_service.cli.service.garbage import find_garbage, remove
from eda_service.config.job import AdaptConfig
from eda_service.ids import new_file_id
from eda_service.jobstore import JobStore, Status
from eda_service.jobstore.home import open_store
from eda_service.storage.runs.run import RunDir

HEAVY = {
    "generate/shard-00000.features.safetensors": 5000,
    "generate/target_io.safetensors": 7000,
    "select/shard-00000.features.safetensors": 3000,
    "train/ray/job/step-50/state.pt": 11_000,
    "train/start/draft.safetensors": 2000,
    "export/files/model.safetensors": 1500,
}
PACK = {"train/pack/pack.safetensors": 900}
LIGHT = {
    "generate/shard-00000.tokens.safetensors": 10,
    "generate/prompts.jsonl": 20,
    "train/curve.jsonl": 30,
    "evaluate/acceptance.png": 40,
    "events.jsonl": 1,
}


@pytest.fixture
def store(eda: Cli) -> Iterator[JobStore]:
    """The database of the user's home."""
    home = Path(eda.env["EDA_HOME"])
    put_draft(home)
    opened = open_store(home)
    yield opened
    opened.close()


def new_job(eda: Cli, store: JobStore, name: str, **target: Any) -> tuple[str, RunDir]:
    """A queued job with all kinds of files."""
    given = {"target": {"model": "org/model", **target}, "base_draft": "small@1", "served_name": name}
    job = store.jobs.create(AdaptConfig.model_validate(given), owner="local", force=True)[0]
    run = RunDir.of_job(job.id, Path(eda.env["EDA_HOME"]))
    run.create(job.task(), origin="api")
    for path, num_bytes in {**HEAVY, **PACK, **LIGHT}.items():
        (run.root / path).parent.mkdir(parents=True, exist_ok=True)
        (run.root / path).write_bytes(bytes(num_bytes))
    return job.id, run


def left(run: RunDir) -> set[str]:
    """Which of the files are still there."""
    return {path for path in {**HEAVY, **PACK, **LIGHT} if (run.root / path).is_file()}


def gc(eda: Cli, *options: str) -> Any:
    done = eda("gc", "--json", *options)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_ended_jobs_lose_what_is_large_and_live_ones_nothing(eda: Cli, store: JobStore) -> None:
    home = Path(eda.env["EDA_HOME"])
    done_id, done = new_job(eda, store, "done")
    finish_job(store, home, store.jobs.get(done_id))
    cancelled_id, cancelled = new_job(eda, store, "cancelled")
    store.jobs.transition(cancelled_id, Status.CANCELLED, event="job_cancelled", message="by the test")
    _, queued = new_job(eda, store, "queued", engine="eda")
    stranger = home / "runs" / "nobody"
    (stranger / "train" / "ray").mkdir(parents=True)
    (stranger / "train" / "ray" / "file").write_bytes(bytes(50))
    pack = {path: path.read_bytes() for path in (home / "packs").rglob("*") if path.is_file()}

    listed = gc(eda, "--days", "0", "--dry-run")
    sizes = {each["name"]: each["size_bytes"] for each in listed["found"]}
    assert sizes == {done_id: sum({**HEAVY, **PACK}.values()), cancelled_id: sum(HEAVY.values())}
    assert (listed["removed"], left(done)) == (False, {*HEAVY, *PACK, *LIGHT})

    freed = gc(eda, "--days", "0", "--yes")
    assert freed["freed_bytes"] == sum(sizes.values())
    assert left(done) == set(LIGHT)
    assert left(cancelled) == {*LIGHT, *PACK}  # nothing of it was published
    assert left(queued) == {*HEAVY, *PACK, *LIGHT}
    assert (stranger / "train" / "ray" / "file").is_file()
    assert {path: path.read_bytes() for path in pack} == pack
    assert done.is_job
    assert gc(eda, "--days", "0", "--yes")["found"] == []


def test_a_young_job_keeps_the_checkpoints_that_a_retry_goes_on_from(eda: Cli, store: JobStore) -> None:
    done_id, done = new_job(eda, store, "done")
    finish_job(store, Path(eda.env["EDA_HOME"]), store.jobs.get(done_id))
    job_id, cancelled = new_job(eda, store, "young")
    store.jobs.transition(job_id, Status.CANCELLED, event="job_cancelled", message="by the test")
    found = gc(eda, "--yes")
    assert left(done) == {*HEAVY, *PACK, *LIGHT} - {"train/ray/job/step-50/state.pt", "train/start/draft.safetensors"}
    assert left(cancelled) == {*HEAVY, *PACK, *LIGHT}
    assert any("--days" in why for why in found["kept"])


def test_links_are_not_followed_out_of_a_run(eda: Cli, store: JobStore, tmp_path: Path) -> None:
    job_id, run = new_job(eda, store, "linked")
    store.jobs.transition(job_id, Status.CANCELLED, event="job_cancelled", message="by the test")
    elsewhere = tmp_path / "elsewhere"
    for part in ("generate", "train"):
        (run.root / part).rename(tmp_path / part)
        (run.root / part).symlink_to(tmp_path / part)
    (elsewhere / "train" / "ray").mkdir(parents=True)
    (Path(eda.env["EDA_HOME"]) / "runs" / "other").symlink_to(elsewhere)
    told = gc(eda, "--days", "0", "--yes")
    gone = {"select/shard-00000.features.safetensors", "export/files/model.safetensors"}
    assert left(run) == {*HEAVY, *PACK, *LIGHT} - gone
    assert "other: it is a link" in told["kept"]


def test_a_job_whose_driver_still_runs_is_left_alone(eda: Cli, store: JobStore) -> None:
    job_id, run = new_job(eda, store, "held")
    store.jobs.transition(job_id, Status.CANCELLED, event="job_cancelled", message="by the test")
    with (run.root / "driver.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert gc(eda, "--days", "0", "--yes")["freed_bytes"] == 0
    assert left(run) == {*HEAVY, *PACK, *LIGHT}


def test_exports_and_fetched_models_stay_while_something_may_need_them(
    eda: Cli, store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDA_MODEL_CACHE", str(tmp_path / "cache"))
    export, model = Path(eda.env["EDA_HOME"]) / "exports" / "abc", tmp_path / "cache" / "models" / "smollm2"
    for path in (export, model):
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(bytes(600))
    job_id, _ = new_job(eda, store, "live")  # its engine is chosen when it starts, and may be vLLM
    told = gc(eda, "--caches", "--yes")
    assert (told["found"], len(told["kept"])) == ([], 3)
    store.jobs.transition(job_id, Status.CANCELLED, event="job_cancelled", message="by the test")
    assert [each["kind"] for each in gc(eda, "--yes")["found"]] == ["export"]
    assert (export.exists(), model.exists()) == (False, True)
    assert [each["kind"] for each in gc(eda, "--caches", "--yes")["found"]] == ["cache"]
    assert not model.exists()


def test_bytes_of_uploads_that_no_row_names_go_after_a_day(eda: Cli, store: JobStore) -> None:
    """As a process leaves them that is killed between the bytes and the row; a younger one may yet get its row."""
    files = Path(eda.env["EDA_HOME"]) / "files"
    files.mkdir()
    day = 24 * 3600.0
    known, lost, young = (new_file_id(time.time() - age_s) for age_s in (9 * day, 1.1 * day, 0.9 * day))
    for name in (known, lost, young, "notes-of-somebody"):
        (files / f"{name}.jsonl").write_bytes(bytes(600))
    counts = {"size_bytes": 600, "num_prompts": 1, "num_skipped": 0, "max_bytes_per_owner": 1000}
    store.files.add(known, owner="local", filename="x", purpose="fine-tune", sha256="0", **counts)
    found = gc(eda, "--yes")
    assert [(each["kind"], each["name"]) for each in found["found"]] == [("upload", lost)]
    assert found["freed_bytes"] == 600
    assert {path.stem for path in files.iterdir()} == {known, young, "notes-of-somebody"}


def test_copies_of_prompt_files_that_no_job_names_go_after_a_day(eda: Cli, store: JobStore) -> None:
    """As they stay when what was checked comes to no job, or when its job was removed."""
    inputs = Path(eda.env["EDA_HOME"]) / "inputs"
    inputs.mkdir()
    needed, lost, young, wanted_again = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
    for name in (needed, lost, young, wanted_again):
        (inputs / f"{name}.jsonl").write_bytes(bytes(600))
        if name is not young:
            os.utime(inputs / f"{name}.jsonl", (time.time() - 90_000,) * 2)
    store.jobs.create(config_with_copy(needed), owner="local")
    home = Path(eda.env["EDA_HOME"])
    found = find_garbage(home, store, days=0.0)
    assert [(each.kind, each.name, each.size_bytes) for each in found.garbage] == [
        ("input", lost, 600),
        ("input", wanted_again, 600),
    ]
    store.jobs.create(config_with_copy(wanted_again), owner="local")  # while the question stood there
    assert [remove(each, home, store) for each in found.garbage] == [600, 0]
    assert {path.stem for path in inputs.iterdir()} == {needed, young, wanted_again}


def config_with_copy(sha256: str) -> AdaptConfig:
    """A job whose prompts are a copied file."""
    return AdaptConfig.model_validate(
        {
            "target": {"model": "org/model"},
            "base_draft": "small@1",
            "dataset": {"source": "/data/rows.jsonl", "sha256": sha256, "num_prompts": 64},
        }
    )


def test_what_is_needed_by_the_time_of_the_answer_stays(eda: Cli, store: JobStore) -> None:
    home = Path(eda.env["EDA_HOME"])
    (home / "exports" / "abc").mkdir(parents=True)
    (home / "exports" / "abc" / "model.safetensors").write_bytes(bytes(600))
    gone_id, gone = new_job(eda, store, "gone")
    store.jobs.transition(gone_id, Status.CANCELLED, event="job_cancelled", message="by the test")
    found = find_garbage(home, store, days=0.0)
    assert [each.kind for each in found.garbage] == ["run", "export"]
    shutil.rmtree(gone.root)  # `eda jobs rm` while the question stood there
    new_job(eda, store, "live")
    assert [remove(each, home, store) for each in found.garbage] == [0, 0]
    assert (home / "exports" / "abc" / "model.safetensors").is_file()
    assert not gone.root.exists()


def test_exports_stay_while_a_run_without_a_job_goes_on(eda: Cli, store: JobStore) -> None:
    home = Path(eda.env["EDA_HOME"])
    for path in (home / "exports" / "abc", home / "runs" / "by-hand"):
        path.mkdir(parents=True)
    with (home / "runs" / "by-hand" / "driver.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert gc(eda, "--yes")["found"] == []
    assert [each["kind"] for each in gc(eda, "--yes")["found"]] == ["export"]


def test_what_is_being_made_stays_for_a_day(eda: Cli, store: JobStore) -> None:
    exports = Path(eda.env["EDA_HOME"]) / "exports"
    for name in (".new.1-ab.tmp", ".left.2-cd.tmp"):
        (exports / name).mkdir(parents=True)
    os.utime(exports / ".left.2-cd.tmp", (0, time.time() - 90_000))
    assert gc(eda, "--yes")["removed"]
    assert [path.name for path in exports.iterdir()] == [".new.1-ab.tmp"]


def test_a_home_that_is_not_there_is_not_made(eda: Cli, tmp_path: Path) -> None:
    done = eda("gc", "--home", str(tmp_path / "typo"), "--yes")
    assert (done.exit_code, "param: home" in done.stderr) == (2, True)
    assert not (tmp_path / "typo").exists()


def test_it_says_sizes_first_and_does_not_remove_without_an_answer(eda: Cli, store: JobStore) -> None:
    job_id, run = new_job(eda, store, "asked")
    store.jobs.transition(job_id, Status.CANCELLED, event="job_cancelled", message="by the test")
    done = eda("gc", "--days", "0")
    assert done.exit_code == 0
    assert "together 29.5 kB: 1 run" in done.stdout
    assert "nothing was removed; --yes" in done.stderr
    assert left(run) == {*HEAVY, *PACK, *LIGHT}
    assert eda("gc", "--days", "0", "--yes").stdout.splitlines()[-1] == "freed 29.5 kB"
