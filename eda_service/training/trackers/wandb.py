"""Weights & Biases (extra `wandb`): one run for each job, with the job's id.

Address and key come from W&B's own variables in the service's environment. Without `WANDB_API_KEY` the run is written
offline to the job's run directory, `train/wandb`, for `wandb sync`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from eda_service.config.job import AdaptConfig
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir
from eda_service.training.trackers.report import Report, settings_by_name

_STEP = "step"


@contextmanager
def wandb(run: RunDir, config: AdaptConfig) -> Iterator[Report]:
    """Add metrics to the job's run in the project `track.project`; W&B's own process writes them."""
    import wandb as library

    is_online = bool(os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"))
    opened = library.init(
        project=config.track.project,
        id=run.job_id,
        name=config.public_name,
        config=settings_by_name(config),
        dir=str(run.stage_dir(Stage.TRAIN)),
        mode=None if is_online else "offline",
        resume="allow" if is_online else None,
        settings=library.Settings(silent=True, console="off"),
    )
    # Steps are metrics of ours: W&B's own steps may not decrease, and a restarted worker group repeats some.
    opened.define_metric("*", step_metric=_STEP)
    try:
        yield lambda step, metrics: opened.log({**metrics, _STEP: step})
    finally:
        opened.finish()
