"""The check that a target's weights fit into the memory of this machine, before they are read."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from eda_service.targets.files.shape import LOADING, count_parameters

_CGROUP = Path("/sys/fs/cgroup")


def lacking_room(model_dir: Path, *, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why a target does not fit into memory; None if it fits.

    Args:
        model_dir: Directory of the target.
        dtype: Dtype of the loaded weights.
        device: Device of the loaded weights.
    """
    need = int(LOADING * dtype.itemsize * count_parameters(model_dir))
    free = free_bytes(device)
    if need <= free:
        return None
    where = "this machine" if device.type == "cpu" else str(device)
    return f"loading it takes about {need / 1e9:.1f} GB of memory and {where} has {free / 1e9:.1f} GB free"


def free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; for the CPU, the smaller of the machine's and this container's."""
    if device.type != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    return max(0, min(int(psutil.virtual_memory().available), _left_in_container()))


def _left_in_container() -> int:
    """Return the bytes left of the container's limit, file cache not counted; without a limit, more than any machine
    has.
    """
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        cached = next((int(line[1]) for line in lines if line[0] == "file"), 0)
    except (OSError, ValueError):  # no container, or one whose limit is "max"
        return sys.maxsize
    return limit - used + cached
