"""Storing the calibration of a job that has ended; the next dry runs use those of the last jobs."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from eda_service.config.job import AdaptConfig
from eda_service.errors import InputError
from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import CORE, DEVICES, Device
from eda_service.planning.history import add_to_history, read_history
from eda_service.planning.measured import measure
from eda_service.storage.files import write_json
from eda_service.storage.runs.run import RunDir, calibration_path

ASSUMED_GPU = "h100"
"""Type of GPU that a job is planned for if none is named."""


def device_of(config: AdaptConfig, gpu: str | None = None) -> Device:
    """Return the device that a job's workers compute on.

    Args:
        config: Config of the job.
        gpu: Type of GPU, if the job uses GPUs.

    Raises:
        InputError: The type of GPU is unknown.
    """
    gpus = [name for name, device in DEVICES.items() if device.memory_bytes is not None]
    if gpu is not None and gpu not in gpus:
        raise InputError(f"no GPU {gpu[:32]!r} is known; there are {', '.join(gpus)}", param="gpu")
    return DEVICES[gpu or ASSUMED_GPU] if config.train.use_gpu else CORE


def keep_calibration(run: RunDir) -> None:
    """Store the calibration of a job that has ended.

    A job that was resumed, or is very small, may give useless factors: those are not stored.

    Raises:
        EdaError: A record is missing, or its target can no longer be found.
    """
    measured = measure(run.root)
    device = device_of(measured.config)
    calibration = measured.calibration(device)
    values = asdict(calibration)
    if all(math.isfinite(value) and value > 0 for value in values.values()):
        add_to_history(run.home, device, run.job_id, calibration)
        write_json(calibration_path(run.home), {"device": device.name, "calibration": values})


def kept_calibration(home: Path, device: Device) -> Calibration | None:
    """Return the median calibration of the jobs on such devices; None before the first."""
    return read_history(home, device).typical
