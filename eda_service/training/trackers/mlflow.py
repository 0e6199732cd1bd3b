"""MLflow (extra `mlflow`): one run for each job, found again by the job's id.

The server is that of `MLFLOW_TRACKING_URI` in the service's environment; without it, `mlflow.db` under EDA_HOME is
used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from eda_service.config.job import AdaptConfig
from eda_service.storage.runs.run import RunDir, home_dir
from eda_service.training.trackers.report import Report, settings_by_name

JOB_TAG = "eda.job_id"


@contextmanager
def mlflow(run: RunDir, config: AdaptConfig) -> Iterator[Report]:
    """Add metrics to the job's run, and mark it as ended; a later stage opens it again."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home_dir() / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=address)
    run_id = _run_id(client, run.job_id, config)

    def report(step: int, metrics: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        client.log_batch(run_id, metrics=[Metric(name, value, now_ms, step) for name, value in metrics.items()])

    try:
        yield report
    finally:
        client.set_terminated(run_id)


def _run_id(client: Any, job_id: str, config: AdaptConfig) -> str:
    """Find the job's run in the experiment `track.project`, or make it with the job's settings."""
    from mlflow.entities import Param

    experiment = client.get_experiment_by_name(config.track.project)
    place = client.create_experiment(config.track.project) if experiment is None else experiment.experiment_id
    runs = client.search_runs([str(place)], f"tags.`{JOB_TAG}` = '{job_id}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    tags = {JOB_TAG: job_id, "eda.served_name": config.public_name}
    made = str(client.create_run(str(place), tags=tags, run_name=config.public_name).info.run_id)
    client.log_batch(made, params=[Param(name, text) for name, text in settings_by_name(config).items()])
    return made
