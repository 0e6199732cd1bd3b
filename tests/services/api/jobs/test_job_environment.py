"""A job is given the roots that its paths were checked against, so that it can check them again."""

from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient

from api.dispatcher.tracker import AttemptTracker
from api.metrics.instruments import Instruments
from api.settings import Settings
from eda_service.jobstore import JobStore
from eda_service.raycluster.jobs_api import RayJobs
from eda_service.storage.inputs.allowed import VARIABLE
from eda_service.storage.runs.run import RunDir


class Submissions(RayJobs):
    """A cluster that has never heard of a job and takes each."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")
        self.env: dict[str, str] = {}

    def get(self, submission_id: str) -> None:
        """Nothing."""

    def submit(self, submission_id: str, entrypoint: str, *, env_vars: dict[str, str], num_cpus: float = 0.1) -> None:
        """Keep the environment."""
        self.env = env_vars


def test_a_job_knows_the_roots(client: TestClient, store: JobStore, settings: Settings, tmp_path: Path) -> None:
    client.post("/v1/adaptations", json={"model": "org/model", "base_draft": "small@1"})
    job = store.jobs.page()[0][0]
    ray = Submissions()
    AttemptTracker(store, settings, ray, Instruments())._submit(job, RunDir.of_job(job.id, settings.home), None)
    assert ray.env[VARIABLE] == str(tmp_path / "allowed")
    ray.close()
