"""The parts of a training worker that depend on Ray Train: the entry point, and checkpoints that outlive the group."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from eda_service.training.inputs import TrainInputs
from eda_service.training.train import train


def train_worker(arguments: dict[str, TrainInputs]) -> None:
    """Run one worker of a group; Ray Train passes the inputs in a dict."""
    train(arguments["inputs"].fetched(), RayCheckpoints())


class RayCheckpoints:
    """Checkpoints as Ray Train keeps them (`training.checkpoints.Checkpoints`)."""

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """Enter the checkpoint that a restarted group resumes from."""
        from ray import train as ray_train

        checkpoint = ray_train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as directory:
            yield Path(directory)

    def keep(self, step: int, write: Callable[[Path], None]) -> None:
        """Report a checkpoint; each worker adds its own files to it."""
        from ray import train as ray_train

        with tempfile.TemporaryDirectory() as directory:
            write(Path(directory))
            ray_train.report(
                {"step": step},
                checkpoint=ray_train.Checkpoint.from_directory(directory),
                checkpoint_dir_name=f"step-{step}",
            )
