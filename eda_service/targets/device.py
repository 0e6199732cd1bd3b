"""The device of a process: the config's `device`, checked against the GPUs that this process sees."""

from __future__ import annotations

import os

import torch

from eda_service.config.job import DeviceName
from eda_service.errors import InputError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose_device(name: DeviceName) -> torch.device:
    """Choose the device; `auto` is a GPU if this process sees one, else the CPU.

    A process for which Ray reserved GPUs sees only those; one for which it reserved none sees all of its machine.

    Args:
        name: Name in the config.

    Raises:
        InputError: The name is `cuda`, and this process sees no GPU.
    """
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if name == "cuda":
        visible = os.environ.get(_VISIBLE)
        raise InputError(
            f"device is cuda and this process sees 0 of the 1 GPU it needs (torch {torch.__version__}, {_VISIBLE} "
            f"{'not set' if visible is None else repr(visible)}); go where `eda doctor` lists a GPU, or set device to "
            "cpu and train.use_gpu to false for a job, EDA_SERVE_GPUS to 0 for endpoints",
            param="device",
        )
    return torch.device("cpu")
