"""What is Ray Train's of a training worker: the entry point, and checkpoints that survive the group."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from eda_service.training.inputs import TrainInputs
from eda_service.training.train import train


def train_worker(arguments: dict[str, TrainInputs]) -> None:
    """Entry point of every worker of a group; Ray Train gives it a dict."""
    train(arguments["inputs"].fetched(), RayCheckpoints())


class RayCheckpoints:
    """Checkpoints as Ray Train keeps them (`training.checkpoints.Checkpoints`)."""

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """The one that a restarted group goes on from."""
        from ray import train as ray_train

        checkpoint = ray_train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as directory:
            yield Path(directory)

    def keep(self, step: int, write: Callable[[Path], None]) -> None:
        """Report one; each worker adds its own files to it."""
        from ray import train as ray_train

        with tempfile.TemporaryDirectory() as directory:
            write(Path(directory))
            ray_train.report(
                {"step": step},
                checkpoint=ray_train.Checkpoint.from_directory(directory),
                checkpoint_dir_name=f"step-{step}",
            )
