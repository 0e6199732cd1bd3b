"""MLflow (extra `mlflow`): one run for each job, found again by the job's id.

The server is MLflow's own `MLFLOW_TRACKING_URI` in the service's environment; without it, `mlflow.db` under EDA_HOME.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from eda_service.config.job import AdaptConfig
from eda_service.storage.run import RunDir, home_dir
from eda_service.training.tracking import parameters

JOB_TAG = "eda.job_id"


class MlflowTrack:
    """Tells one run.

    Args:
        run: The job.
        config: Becomes the run's parameters; its `track.project` is the experiment.
    """

    def __init__(self, run: RunDir, config: AdaptConfig) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home_dir() / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=address)
        experiment = self._experiment(config.track.project)
        found = self._client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{run.job_id}'", max_results=1)
        if found:
            self._id = str(found[0].info.run_id)
            return
        tags = {JOB_TAG: run.job_id, "eda.served_name": config.public_name}
        self._id = str(self._client.create_run(experiment, tags=tags, run_name=config.public_name).info.run_id)
        self._client.log_batch(self._id, params=[Param(name, text) for name, text in parameters(config).items()])

    def _experiment(self, name: str) -> str:
        found: Any = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add metrics at a step."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now_ms, step) for name, value in values.items()])

    def close(self) -> None:
        """Mark the run as ended; a later stage opens it again."""
        self._client.set_terminated(self._id)
