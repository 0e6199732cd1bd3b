"""A service whose runs, packs and drafts are on S3: a job runs all stages and is served from there, a machine with an
empty disk skips what is done, and trains and evaluates again from what it fetches.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from running import REPOSITORY, Service
from s3_server import S3Server
from tiny_models import fit_draft, register_draft

from eda_service.artifacts.files import sha256_file
from eda_service.artifacts.registry import publish_draft, stage_draft
from eda_service.artifacts.rundir import RunDir
from eda_service.artifacts.storage import Storage
from eda_service.client import Client
from eda_service.config import TargetSpec
from eda_service.records import Stage
from eda_service.target.loader import load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

NAME = "stored"
CONFIG: dict[str, Any] = {
    "selfgen": {"max_new_tokens": 12, "batch_size": 8, "shard_size": 8, "threads_per_actor": 1},
    "selection": {"num_reference_prompts": 8, "reference_max_new_tokens": 8, "pca_dim": 8},
    "train": {"epochs": 4, "batch_size": 4, "num_workers": 1, "checkpoint_every_steps": 4},
    "evaluation": {"num_prompts": 4, "max_new_tokens": 8, "num_timed_prompts": 0, "temperatures": [0.0], "threads": 1},
}


@pytest.fixture(scope="module")
def env(s3_server: S3Server) -> Iterator[Mapping[str, str]]:
    """What every process of the service is given."""
    wanted = {**s3_server.env, "EDA_STORAGE": s3_server.new_bucket()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wanted.items():
            patch.setenv(name, value)
        yield wanted


@pytest.fixture(scope="module")
def tiny_dir(target_dir: Callable[[str], Path]) -> Path:
    return target_dir("llama")


@pytest.fixture(scope="module")
def service(env: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[Service]:
    home, elsewhere = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("elsewhere")
    target = load_target(TargetSpec(model=str(tiny_dir), dtype="float32"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDA_HOME", str(elsewhere))
        staging = stage_draft("tiny", 1)
        shutil.copytree(register_draft(elsewhere, fit_draft(target, steps=60), target), staging, dirs_exist_ok=True)
        publish_draft(staging, "tiny", 1)
    with Service(home, {**env, "EDA_BACKOFF_S": "0.2"}, allow=tiny_dir.parent.parent) as running:
        yield running


def adapt_again(job_id: str, home: Path, service: Service) -> None:
    """The job's driver on a machine of its own, joined to the same cluster."""
    env = {**os.environ, **service.facts["ray_env"], "EDA_HOME": str(home), "RAY_ADDRESS": service.facts["ray_address"]}
    command = [sys.executable, "-m", "jobs.adapt", "--job-id", job_id]
    done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_job_lives_on_storage(
    service: Service, client: Client, env: Mapping[str, str], tiny_dir: Path, tmp_path: Path
) -> None:
    prompts = tiny_dir.parent / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"the user and the other number {n}"}) + "\n" for n in range(28)))
    job = client.create(
        {
            "model": str(tiny_dir),
            "base_draft": "tiny@1",
            "served_name": NAME,
            "dataset": {"source": str(prompts), "num_prompts": 28},
            "config": CONFIG,
        }
    )
    done = client.wait(job.id, timeout_s=400)
    assert (done.status, done.error, done.result_pack) == ("succeeded", None, f"{NAME}@1")
    stages = [event.type for event in client.events(job.id) if event.type.startswith("stage_")]
    assert stages == ["stage_started", "stage_finished"] * len(Stage)
    assert client.report(job.id)["acceptance"]

    storage = Storage(env["EDA_STORAGE"])
    assert storage.read(f"packs/{NAME}/1.json") is not None
    assert storage.read(f"runs/{job.id}/logs/evaluate.log") is not None
    assert not (service.home / "packs").exists()
    assert not any((service.home / "runs" / job.id).rglob("record.json"))

    client.deployments.wait_ready(NAME, timeout_s=300)
    with openai.OpenAI(base_url=f"{service.facts['api_url']}/v1", api_key="none", max_retries=0) as chat:
        asked = [{"role": "user", "content": "the other"}]
        answer = chat.chat.completions.create(model=NAME, messages=asked, max_tokens=4)  # type: ignore[arg-type]
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    cached = list((service.home / "cache").glob(f"*/{NAME}/1/pack.safetensors"))
    assert len(cached) == 1
    manifest = storage.read(f"packs/{NAME}/1.json")
    assert sha256_file(cached[0]) in (manifest or b"").decode()

    # A machine with an empty disk: what is done is skipped, and nothing is fetched but what is published again.
    num_events = len(RunDir.of_job(job.id).read_events())
    adapt_again(job.id, tmp_path / "second", service)
    run = RunDir.of_job(job.id, tmp_path / "second")
    kinds = [event["type"] for event in run.read_events(num_events)]
    assert kinds == ["stage_skipped"] * 5 + ["stage_started", "stage_finished", "pack_published"]
    assert {path.name for path in run.root.rglob("*.safetensors")} == {"pack.safetensors"}

    # Another one, after the records of two stages were lost: it trains and evaluates from what it fetches.
    num_events += len(kinds)
    for stage in (Stage.TRAIN, Stage.EVALUATE):
        run.remove(f"{stage.value}/record.json")
    adapt_again(job.id, tmp_path / "third", service)
    third = RunDir.of_job(job.id, tmp_path / "third")
    finished = [each["stage"] for each in third.read_events(num_events) if each["type"] == "stage_finished"]
    assert finished == ["train", "evaluate", "publish"]
    assert (third.root / "select").is_dir()
    assert not list((third.root / "generate").glob("*.features.*"))
    assert storage.read(f"packs/{NAME}/1.json") == manifest  # published once
