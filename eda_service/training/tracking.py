"""Trackers of a job's metrics besides its records: TensorBoard always, MLflow and W&B if the job asks for them.

A tracker that fails does not fail the job: it is left out from then on, and an event of the job says why. In a worker
group only rank 0 tracks.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

from eda_service.config.job import AdaptConfig
from eda_service.config.track import TrackConfig, Tracker
from eda_service.errors import InputError
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir
from eda_service.training.trackers.mlflow import mlflow
from eda_service.training.trackers.report import Report
from eda_service.training.trackers.tensorboard import tensorboard
from eda_service.training.trackers.wandb import wandb

logger = logging.getLogger(__name__)

OpenTracker = Callable[[RunDir, AdaptConfig], AbstractContextManager[Report]]
OPTIONAL: Mapping[Tracker, OpenTracker] = {Tracker.MLFLOW: mlflow, Tracker.WANDB: wandb}


def check_installed(config: TrackConfig) -> None:
    """Refuse a tracker whose library is not installed, before the job uses any resources.

    Raises:
        InputError: The tracker's extra is not installed.
    """
    for tracker in config.to:
        if importlib.util.find_spec(tracker.value) is None:
            raise InputError(
                f"track.to names {tracker.value}, which is not installed here; install the extra on every node "
                f"(pip install 'eda-service[{tracker.value}]'), or leave it out: TensorBoard files are always written",
                param="track.to",
            )


def open_trackers(run: RunDir, config: AdaptConfig) -> AbstractContextManager[Report]:
    """Open the job's trackers as one. A later call for the same job continues its runs."""

    def on_failure(text: str) -> None:
        logger.warning("%s", text)
        run.event("tracking_failed", text, stage=Stage.TRAIN, level="warning")

    openers = {"tensorboard": tensorboard, **{tracker.value: OPTIONAL[tracker] for tracker in config.track.to}}
    return each_on_its_own({name: partial(each, run, config) for name, each in openers.items()}, on_failure)


@contextmanager
def each_on_its_own(
    openers: Mapping[str, Callable[[], AbstractContextManager[Report]]], on_failure: Callable[[str], None]
) -> Iterator[Report]:
    """Combine trackers into one that never fails.

    Args:
        openers: Functions that open a tracker, by its name.
        on_failure: Function called once for each tracker that is given up, with the reason.
    """
    reports: dict[str, Report] = {}
    given_up: set[str] = set()

    def guarded(name: str, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception as error:  # Errors of third-party libraries and networks must not end the training.
            if name not in given_up:
                given_up.add(name)
                text = " ".join(f"{type(error).__name__}: {error}".split())
                on_failure(f"{name} is not told any more: {text[:400]}")

    def report(step: int, metrics: Mapping[str, float]) -> None:
        for name in [each for each in reports if each not in given_up]:
            guarded(name, reports[name], step, metrics)

    with ExitStack() as stack:

        def enter(name: str) -> None:
            tracker = openers[name]()
            reports[name] = tracker.__enter__()
            stack.callback(guarded, name, tracker.__exit__, None, None, None)

        for name in openers:
            guarded(name, enter, name)
        yield report
