"""TensorBoard event files in the job's run directory, `train/tensorboard`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from eda_service.config.job import AdaptConfig
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir
from eda_service.training.trackers.report import Report

FOLDER = "tensorboard"


@contextmanager
def tensorboard(run: RunDir, _: AdaptConfig) -> Iterator[Report]:
    """Write scalars, which readers see at once. Settings are not written, because the run directory has them."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.stage_dir(Stage.TRAIN) / FOLDER))

    def report(step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    try:
        yield report
    finally:
        writer.close()
