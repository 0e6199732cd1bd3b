"""Trackers for a job's curves besides its own files."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from eda_service.config.base import Config


class Tracker(StrEnum):
    """Trackers that store a job's curves besides TensorBoard's files."""

    MLFLOW = "mlflow"
    WANDB = "wandb"


class TrackConfig(Config):
    """Trackers for training curves and the evaluation, besides TensorBoard files, which are always written."""

    to: tuple[Tracker, ...] = Field(
        (),
        max_length=2,
        description="each needs its extra (`mlflow`, `wandb`); addresses and keys come from the service's environment",
    )
    project: str = Field(
        "eda", pattern=r"^[A-Za-z0-9_.-]{1,96}$", description="MLflow's experiment and W&B's project", max_length=96
    )
