"""`make test-storage`: a service whose runs, packs and drafts are on S3. A job runs all stages and is served from
there, and a machine with an empty disk skips what is done.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import openai
import pytest
from running import REPOSITORY, Service
from s3_server import S3Server
from small_job import CONFIG, store_draft, write_prompts
from waiting import TEST_TIMEOUT_S

from eda_service.client import Client
from eda_service.records import Stage
from eda_service.storage.files import sha256_file
from eda_service.storage.objects import ObjectStore
from eda_service.storage.runs.run import RunDir

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]

NAME = "stored"


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
    store_draft(tiny_dir, elsewhere)
    with Service(home, {**env, "EDA_BACKOFF_S": "0.2"}, allow=tiny_dir.parent.parent) as running:
        yield running


def adapt_again(job_id: str, home: Path, service: Service) -> None:
    """The job's driver on a machine of its own, joined to the same cluster."""
    env = {
        **os.environ,
        **service.up_file["ray_env"],
        "EDA_HOME": str(home),
        "RAY_ADDRESS": service.up_file["ray_address"],
    }
    command = [sys.executable, "-m", "jobs.adapt", "--job-id", job_id]
    done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """Talks to the service."""
    with Client(str(service.up_file["api_url"])) as opened:
        yield opened


def test_a_job_lives_on_storage(
    service: Service, client: Client, env: Mapping[str, str], tiny_dir: Path, tmp_path: Path
) -> None:
    job = client.create(
        {
            "model": str(tiny_dir),
            "base_draft": "tiny@1",
            "served_name": NAME,
            "dataset": write_prompts(tiny_dir.parent / "prompts.jsonl"),
            "config": CONFIG,
        }
    )
    done = service.wait_job(client, job.id)
    assert (done.status, done.error, done.result_pack) == ("succeeded", None, f"{NAME}@1")
    stages = [event.type for event in client.events(job.id) if event.type.startswith("stage_")]
    assert stages == ["stage_started", "stage_finished"] * len(Stage)
    assert client.report(job.id)["acceptance"]

    storage = ObjectStore(env["EDA_STORAGE"])
    assert storage.read(f"packs/{NAME}/1.json") is not None
    assert storage.read(f"runs/{job.id}/logs/evaluate.log") is not None
    assert not (service.home / "packs").exists()
    assert not any((service.home / "runs" / job.id).rglob("record.json"))

    service.wait_served(client, NAME)
    with openai.OpenAI(base_url=f"{service.up_file['api_url']}/v1", api_key="none", max_retries=0) as chat:
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
