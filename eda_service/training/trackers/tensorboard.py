"""TensorBoard event files in the job's run directory, `train/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping

from eda_service.config.job import AdaptConfig
from eda_service.records import Stage
from eda_service.storage.run import RunDir

FOLDER = "tensorboard"


class TensorBoardTrack:
    """Writes scalars.

    Args:
        run: The job.
        config: Not written: the run directory has it.
    """

    def __init__(self, run: RunDir, config: AdaptConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.stage_dir(Stage.TRAIN) / FOLDER))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add scalars at a step, and let readers see them."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
