"""A service with something to see: a thousand jobs, one of them finished with a real one's records, and what they made.

It is `python -m api` as a process of its own over a SQLite database; no cluster answers. Serve's place may be taken by
whoever listens at `serve_port`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from job_files import finish_job, write_records

from eda_service.config.export_forms import Destination
from eda_service.config.job import AdaptConfig, DatasetSpec, TargetSpec
from eda_service.config.tasks import ExportConfig
from eda_service.jobstore import Deployment, JobStore, Status
from eda_service.raycluster.processes import free_port
from eda_service.storage.runs.run import RunDir
from tests.exported_packs import finish_export, put_exportable
from tests.pack_files import put_pack
from tests.waiting import wait_for, work_of

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = "smollm2-135m-math"
ADAPTED, PLAIN = TARGET, f"{TARGET}-base"
EXPORTED = "smollm2-135m-eagle3-math"
SERVED = {"model": TARGET, "adapter": None, "revision": None, "dtype": "auto"}


@dataclass(frozen=True)
class UiService:
    """Where it is, and ids of jobs in each state."""

    url: str
    home: Path
    store: JobStore
    finished: str
    failed: str
    running: str
    queued: str

    @property
    def pages(self) -> dict[str, str]:
        """Every kind of page by a name for its picture."""
        return {
            "home": "/ui/",
            "jobs": "/ui/jobs",
            "job-finished": f"/ui/jobs/{self.finished}",
            "job-running": f"/ui/jobs/{self.running}",
            "job-failed": f"/ui/jobs/{self.failed}",
            "job-queued": f"/ui/jobs/{self.queued}",
            "logs": f"/ui/jobs/{self.finished}/logs/train",
            "new": f"/ui/new?model={TARGET}&preset=demo",
            "files": "/ui/files",
            "draft-import": "/ui/drafts/import",
            "drafts": "/ui/drafts",
            "draft": "/ui/drafts/smollm2-135m@3",
            "packs": "/ui/packs",
            "pack": f"/ui/packs/{TARGET}",
            "pack-export": f"/ui/packs/{EXPORTED}/export",
            "deployments": "/ui/deployments",
            "deployment": f"/ui/deployments/{ADAPTED}",
            "playground": "/ui/playground",
            "api": "/docs",
            "api-part": "/ui/docs/deployments",
            "not-here": "/ui/jobs/adapt_nobody",
        }


@contextlib.contextmanager
def ui_service(home: Path, *, num_jobs: int = 1000, serve_port: int | None = None) -> Iterator[UiService]:
    """Fill a home, serve it, and stop at the end of the block."""
    home.mkdir(parents=True)
    store = JobStore(f"sqlite:///{home / 'eda.db'}")
    finished = _create(store, seed=0)
    finish_job(store, home, store.jobs.get(finished))
    for n in range(num_jobs - 3):
        _create(store, seed=n + 1, owner=f"team-{n % 4}", num_prompts=64 * (1 + n % 7))
    failed, running = _create(store, seed=10_001), _create(store, seed=10_002)
    _fail(store, failed)
    _run(store, home, running)
    queued = _create(store, seed=10_003)
    pack = put_pack(home, TARGET, 2.61, base=1.33)
    _export(store, home)
    for name, served in ((ADAPTED, pack), (PLAIN, None)):
        row = Deployment(name=name, target=SERVED, base_draft="smollm2-135m@2", pack=served, pack_ref=served)
        store.deployments.put(row, made_by="local", reason="created")
    try:
        with _process(home, serve_port or free_port()) as url:
            _upload(url)
            yield UiService(url, home, store, finished, failed, running, queued)
    finally:
        store.close()


def _create(store: JobStore, *, seed: int, owner: str = "local", num_prompts: int = 320) -> str:
    config = AdaptConfig(
        target=TargetSpec(model=TARGET),
        dataset=DatasetSpec(source="reasoning-gym:gsm_symbolic?templates=0-79", num_prompts=num_prompts),
        seed=seed,
    )
    return store.jobs.create(config, owner=owner, labels={"team": owner}, force=True)[0].id


def _export(store: JobStore, home: Path) -> None:
    """A pack over an EAGLE-3 draft, which SGLang takes in one form alone, and an export of it."""
    made = put_exportable(home, EXPORTED, base_draft="smollm2-135m-eagle3@1")
    config = ExportConfig(target=TargetSpec(model=TARGET), pack=made, to=Destination.VLLM)
    finish_export(store, home, store.jobs.create(config, owner="local", labels={}, force=True)[0])


def _fail(store: JobStore, job_id: str) -> None:
    store.jobs.transition(job_id, Status.RUNNING, event="attempt_started", message="attempt 1 of 3")
    store.jobs.record_progress(
        job_id, {"stage": "train", "percent": 12.0, "step": 60, "total_steps": 488, "updated_at": int(time.time())}
    )
    message = "the loss at step 60 is nan; lower train.learning_rate (it is 0.0015)"
    error = {"code": "non_finite_loss", "message": message, "param": "train.learning_rate", "retryable": False}
    store.jobs.transition(job_id, Status.FAILED, event="job_failed", message=message, level="error", error=error)


def _run(store: JobStore, home: Path, job_id: str) -> None:
    """In the middle of its training: what comes later is taken away again."""
    run, now = RunDir.of_job(job_id, home), int(time.time())
    config = store.jobs.get(job_id).adapt_config()
    run.create(config, origin="api")
    write_records(run, config)
    for stage in ("train", "evaluate"):
        (run.root / stage / "record.json").unlink()
    store.jobs.transition(job_id, Status.RUNNING, event="attempt_started", message="attempt 1 of 3")
    progress = {"stage": "train", "percent": 41.0, "step": 200, "total_steps": 488, "eta_s": 95}
    store.jobs.record_progress(job_id, {**progress, "stage_started_at": now - 70, "updated_at": now})


def _upload(url: str) -> None:
    rows = "".join(json.dumps({"prompt": f"How many apples are {n} apples and one?"}) + "\n" for n in range(120))
    sent = {"data": {"purpose": "fine-tune"}, "files": {"file": ("apples.jsonl", rows.encode())}}
    httpx.post(f"{url}/v1/files", timeout=60, **sent).raise_for_status()  # type: ignore[arg-type]


@contextlib.contextmanager
def _process(home: Path, serve_port: int) -> Iterator[str]:
    port = free_port()
    env = {
        **os.environ,
        "EDA_HOME": str(home),
        "EDA_PORT": str(port),
        "EDA_SERVE_PORT": str(serve_port),
        "EDA_RAY_DASHBOARD_URL": f"http://127.0.0.1:{free_port()}",
        "EDA_HEARTBEAT_TIMEOUT_S": "100000",
        "EDA_GRACE_S": "3600",
    }
    with (home / "api.log").open("ab") as log:
        child = subprocess.Popen([sys.executable, "-m", "api"], env=env, cwd=REPOSITORY, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert child.poll() is None, (home / "api.log").read_text()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/health", timeout=5).is_success
        return False

    try:
        wait_for(is_up, what=f"the API; see {home / 'api.log'}", progress=lambda: work_of(child.pid))
        yield url
    finally:
        child.terminate()
        child.wait(30)
