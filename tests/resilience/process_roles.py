"""The processes of a running service by what they do, for those who kill them."""

from __future__ import annotations

import contextlib
from typing import Any

import psutil  # type: ignore[import-untyped]

from eda_service.raycluster import processes

ROLES = ("api", "ray_head", "driver", "driver_shell", "train_worker", "generation_actor")


def process_ids(up_file: dict[str, Any], role: str, job_id: str) -> list[int]:
    """Process ids of a role, the service's own or a job's.

    Args:
        up_file: What the service's `up.json` says.
        role: One of ROLES. Ray starts a driver in a shell, and takes the shell's end for the driver's.
        job_id: Whose driver.
    """
    if role in ("api", "ray_head"):
        return [int(up_file["pids"][role])]
    parts = {
        "driver": f"python -m jobs.adapt --job-id {job_id}",
        "driver_shell": f"-c python -m jobs.adapt --job-id {job_id}",
        "train_worker": "TrainWorker",
        "generation_actor": "MapWorker",
    }
    found: list[int] = []
    for mark in up_file["marks"]:
        for process in processes.marked(mark):
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if parts[role] in line and not (role == "driver" and parts["driver_shell"] in line):
                    found.append(process.pid)
    return found
