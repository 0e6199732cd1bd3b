"""Weights & Biases (extra `wandb`): one run for each job, its id the job's.

Address and key are W&B's own variables in the service's environment. Without `WANDB_API_KEY` the run is written offline
under the job's run directory, `train/wandb`, for `wandb sync`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from eda_service.config.job import AdaptConfig
from eda_service.records import Stage
from eda_service.storage.run import RunDir
from eda_service.training.tracking import parameters

_STEP = "step"


class WandbTrack:
    """Tells one run.

    Args:
        run: The job.
        config: Becomes the run's config; its `track.project` is the project.
    """

    def __init__(self, run: RunDir, config: AdaptConfig) -> None:
        import wandb

        is_online = bool(os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"))
        self._run: Any = wandb.init(
            project=config.track.project,
            id=run.job_id,
            name=config.public_name,
            config=parameters(config),
            dir=str(run.stage_dir(Stage.TRAIN)),
            mode=None if is_online else "offline",
            resume="allow" if is_online else None,
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Steps of ours, not W&B's, which may not go back: a worker group that is restarted repeats some.
        self._run.define_metric("*", step_metric=_STEP)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add metrics at a step."""
        self._run.log({**values, _STEP: step})

    def close(self) -> None:
        """Let W&B's process write and end."""
        self._run.finish()
