"""`<home>/up.json`: addresses and process ids of a running service, written by its supervisor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NotRequired, TypedDict


class ProcessIds(TypedDict):
    """Ids of the service's own processes; None: the process does not run."""

    api: int | None
    ray_head: int | None


class UpFile(TypedDict):
    """The content of the file; fields that are not required were not written by older versions.

    Attributes:
        pid: Id of the supervisor's process.
        ray_joinable: Whether other machines may join the cluster.
        database: Address of the database of jobs and keys, without secrets.
        ray_env: Environment that a process needs to access the cluster.
        marks: Marks of the processes that the supervisor started, by which they are found after it was killed.
        ray_temp_dir: Directory of the head.
    """

    pid: int
    api_url: str
    serve_url: str
    ray_address: str
    ray_joinable: bool
    dashboard_url: str
    home: str
    database: NotRequired[str]
    ray_env: dict[str, str]
    pids: ProcessIds
    marks: NotRequired[list[str]]
    ray_temp_dir: NotRequired[str]


def read_up(home: Path) -> UpFile | None:
    """Read the file that `eda up` wrote; None without one."""
    try:
        up_file: UpFile = json.loads((home / "up.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return up_file
