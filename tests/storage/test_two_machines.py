"""An adaptation on one machine, and, after the records of two stages were lost, again on another one whose disk is
empty: each with a Ray of its own, with a real S3 server between them. `make test-storage`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_server import S3Server
from small_job import CONFIG, store_draft, write_prompts

from eda_service.records import STAGES
from eda_service.storage.files import sha256_file
from eda_service.storage.objects import open_storage, storage_url
from eda_service.storage.runs.run import RunDir

REPOSITORY = Path(__file__).resolve().parents[2]


def adapt(home: Path, *options: str) -> None:
    """One attempt of the job on a machine with this home."""
    command = [sys.executable, "-m", "jobs.adapt", "--job-id", "job", *options]
    env = {**os.environ, "EDA_HOME": str(home)}
    done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.timeout(1200)
def test_stages_go_on_where_the_disk_is_empty(
    s3_server: S3Server, target_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**s3_server.env, "EDA_STORAGE": s3_server.new_bucket(), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    store_draft(target_dir("llama"), tmp_path / "elsewhere")
    asked = {
        **CONFIG,
        "target": {"model": str(target_dir("llama"))},
        "base_draft": "tiny@1",
        "served_name": "two",
        "dataset": write_prompts(tmp_path / "prompts.jsonl"),
    }
    (tmp_path / "config.json").write_text(json.dumps(asked), encoding="utf-8")
    adapt(tmp_path / "one", "--config", str(tmp_path / "config.json"))
    run = RunDir.of_job("job", tmp_path / "two")
    storage = open_storage(storage_url())
    manifest = storage.read("packs/two/1.json")
    assert manifest is not None
    assert storage.children("runs/job/train/ray/job")  # checkpoints of Ray Train

    before = len(run.read_events())
    for stage in ("train", "evaluate"):
        run.remove(f"{stage}/record.json")
    adapt(tmp_path / "two")
    events = run.read_events(before)
    assert [each["stage"] for each in events if each["type"] == "stage_skipped"] == [s.value for s in STAGES[:3]]
    finished = [each["stage"] for each in events if each["type"] == "stage_finished"]
    assert finished == ["train", "evaluate", "publish"]
    assert not list((tmp_path / "two" / "runs" / "job" / "generate").glob("*.features.*"))
    assert storage.read("packs/two/1.json") == manifest  # published once
    (pack,) = (tmp_path / "two" / "cache").glob("*/two/1/pack.safetensors")
    assert sha256_file(pack) in manifest.decode()
