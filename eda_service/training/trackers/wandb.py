"""Weights & Biases (extra `wandb`): one run for each job, its id the job's.

Address and key are W&B's own variables in the service's environment. Without `WANDB_API_KEY` the run is written offline
under the job's run directory, `train/wandb`, for `wandb sync`.
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
    """Add metrics to the job's run in the project `track.project`, and have W&B's process write and end."""
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
    # Steps of ours, not W&B's, which may not go back: a worker group that is restarted repeats some.
    opened.define_metric("*", step_metric=_STEP)
    try:
        yield lambda step, metrics: opened.log({**metrics, _STEP: step})
    finally:
        opened.finish()
