"""Where a job's numbers go besides its records: TensorBoard always, MLflow and W&B where the job asks for them.

A tracker that fails does not fail the job: it is left out from then on, and an event of the job says why. Of a worker
group rank 0 alone tracks.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from eda_service.config.job import AdaptConfig
from eda_service.config.track import TrackConfig, Tracker
from eda_service.errors import InputError
from eda_service.records import Stage
from eda_service.storage.run import RunDir

logger = logging.getLogger(__name__)


class Track(Protocol):
    """One tracker's view of one job."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add values at an optimizer step."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


def check_installed(config: TrackConfig) -> None:
    """Refuse a tracker whose library is not there, before the job costs anything.

    Raises:
        InputError: Its extra is not installed.
    """
    for tracker in config.to:
        if importlib.util.find_spec(tracker.value) is None:
            raise InputError(
                f"track.to names {tracker.value}, which is not installed here; install the extra on every node "
                f"(pip install 'eda-service[{tracker.value}]'), or leave it out: TensorBoard files are always written",
                param="track.to",
            )


class Tracks:
    """All trackers of a job; a context that closes them.

    Args:
        tracks: By name, in the order in which they are told.
        on_failure: Told once of each tracker that is given up, with the reason.
    """

    def __init__(self, tracks: Mapping[str, Track], on_failure: Callable[[str], None]) -> None:
        self._tracks, self._on_failure = dict(tracks), on_failure

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add values at an optimizer step."""
        for name, track in list(self._tracks.items()):
            self._guarded(name, lambda track=track: track.log(values, step))  # type: ignore[misc]

    def close(self) -> None:
        """Close every tracker."""
        for name, track in list(self._tracks.items()):
            self._guarded(name, track.close)
        self._tracks.clear()

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # libraries of others over networks of others: the training is worth more
            del self._tracks[name]
            self._on_failure(reason(name, error))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def reason(name: str, error: Exception) -> str:
    """Why a tracker is given up, on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{name} is not told any more: {text[:400]}"


def open_tracks(run: RunDir, config: AdaptConfig) -> Tracks:
    """The trackers of a job. A later call for the same job goes on where the earlier one stopped."""

    def on_failure(text: str) -> None:
        logger.warning("%s", text)
        run.event("tracking_failed", text, stage=Stage.TRAIN, level="warning")

    opened: dict[str, Track] = {}
    for name, make in _makers(config.track).items():
        try:
            opened[name] = make(run, config)
        except Exception as error:
            on_failure(reason(name, error))
    return Tracks(opened, on_failure)


def _makers(config: TrackConfig) -> dict[str, Callable[[RunDir, AdaptConfig], Track]]:
    from eda_service.training.trackers.mlflow import MlflowTrack
    from eda_service.training.trackers.tensorboard import TensorBoardTrack
    from eda_service.training.trackers.wandb import WandbTrack

    optional: dict[Tracker, Callable[[RunDir, AdaptConfig], Track]] = {
        Tracker.MLFLOW: MlflowTrack,
        Tracker.WANDB: WandbTrack,
    }
    return {"tensorboard": TensorBoardTrack, **{tracker.value: optional[tracker] for tracker in config.to}}


def parameters(config: AdaptConfig) -> dict[str, str]:
    """A job's settings by dotted name."""
    found: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}.{name}" if path else name)
        else:
            found[path] = str(value)

    walk(config.model_dump(mode="json"), "")
    return found
