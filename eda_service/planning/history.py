"""The costs of the last twenty jobs of a home compared with their plans; the expected duration of the next job from
them.

One job on a busy machine says little about the next: plans use the median of each factor, and the range of a plan lies
between the quartiles, wider if there were few jobs. Without any job the range has a fixed width.
"""

from __future__ import annotations

import fcntl
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import Device
from eda_service.planning.plan import Plan
from eda_service.storage.files import write_json
from eda_service.storage.runs.run import calibration_path

MAX_JOBS = 20
MEASURED_WIDTH, ASSUMED_WIDTH = 3.0, 5.0
"""Assumed: the factor by which a job may be slower or faster before any has ended: on a device like the one that the
constants were measured on, and on one whose constants come from a data sheet.
"""
_FACTORS = ("generate", "train", "evaluate")
"""Fields of a calibration that are always numbers; the others may be None."""


@dataclass(frozen=True)
class TimeRange:
    """A range of seconds: half of the observed values lie between `low` and `high`."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class History:
    """Calibrations of earlier jobs on one kind of device, oldest first."""

    device: Device
    calibrations: tuple[Calibration, ...]

    @property
    def num_jobs(self) -> int:
        """Number of jobs behind a plan."""
        return len(self.calibrations)

    @property
    def typical(self) -> Calibration | None:
        """The median of each factor; None before the first job."""
        return self._each(statistics.median) if self.calibrations else None

    @property
    def fast(self) -> Calibration | None:
        """The lower quartile of each factor."""
        return self._each(lambda values: _quartiles(values)[0]) if self.calibrations else None

    @property
    def slow(self) -> Calibration | None:
        """The upper quartile of each factor."""
        return self._each(lambda values: _quartiles(values)[1]) if self.calibrations else None

    @property
    def width(self) -> float:
        """Factor by which a range is wider than the observed one, in both directions."""
        if not self.calibrations:
            return MEASURED_WIDTH if self.device.is_measured else ASSUMED_WIDTH
        return 1.0 + 1.0 / self.num_jobs

    def ranges(self, plan: Callable[[Calibration | None], Plan]) -> dict[str, TimeRange]:
        """Estimate how long each stage of a job takes, by the stage's name.

        Args:
            plan: Function from a calibration to the plan of the job.
        """
        fast, typical, slow = plan(self.fast), plan(self.typical), plan(self.slow)
        return {
            stage.stage: TimeRange(
                low=fast.stage(stage.stage).seconds / self.width,
                median=stage.seconds,
                high=slow.stage(stage.stage).seconds * self.width,
            )
            for stage in typical.stages
        }

    def _each(self, choose: Callable[[Sequence[float]], float]) -> Calibration:
        values: dict[str, float | None] = {}
        for name in (field.name for field in fields(Calibration)):
            known = [value for each in self.calibrations if (value := getattr(each, name)) is not None]
            values[name] = choose(known) if known else None
        return Calibration(**values)  # type: ignore[arg-type]  # the factors are never None


def read_history(home: Path, device: Device) -> History:
    """Read the calibrations of a home's jobs on such devices; an earlier version kept only the last one."""
    listed = _read(history_path(home))
    if not isinstance(listed, list):
        listed = [_read(calibration_path(home))]
    found = (_calibration(each, device) for each in listed)
    return History(device, tuple(each for each in found if each is not None)[-MAX_JOBS:])


def add_to_history(home: Path, device: Device, job_id: str, calibration: Calibration) -> None:
    """Store the calibration of a job that has ended; a second call for the same job replaces the first.

    Jobs that end at the same time wait for one another.
    """
    with _alone(history_path(home)):
        listed = _read(history_path(home))
        kept = (
            listed
            if isinstance(listed, list)
            else [each for each in [_read(calibration_path(home))] if each is not None]
        )
        others = [each for each in kept if not isinstance(each, dict) or each.get("job") != job_id]
        new = {"job": job_id, "device": device.name, "calibration": asdict(calibration)}
        of_device = [each for each in others if isinstance(each, dict) and each.get("device") == device.name]
        write_json(
            history_path(home), [each for each in others if each not in of_device] + [*of_device, new][-MAX_JOBS:]
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock, so that no other process reads or writes the file: two jobs that end together are both stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def history_path(home: Path) -> Path:
    """Return the path of the file, beside that of the last job alone, which an earlier version reads."""
    return calibration_path(home).with_name("calibrations.json")


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _calibration(found: object, device: Device) -> Calibration | None:
    try:
        if not isinstance(found, dict) or found["device"] != device.name:
            return None
        given = found["calibration"]
        kept = Calibration(
            **{name: float(given[name]) for name in _FACTORS if name in given},
            generate_start_s=_float_or_none(given.get("generate_start_s")),
            train_start_s=_float_or_none(given.get("train_start_s")),
            validate_s=_float_or_none(given.get("validate_s")),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    values = asdict(kept).values()
    return kept if all(value is None or (math.isfinite(value) and value > 0) for value in values) else None


def _float_or_none(value: Any) -> float | None:
    return None if value is None else float(value)
