"""`<home>/up.json`: where everything of a running service is, written by its supervisor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NotRequired, TypedDict


class ProcessIds(TypedDict):
    """Of the service's own processes; None: it does not run."""

    api: int | None
    ray_head: int | None


class UpFile(TypedDict):
    """What the file holds; what is not required, older versions did not write.

    Attributes:
        pid: The supervisor's process.
        ray_joinable: Whether other machines may join the cluster.
        database: Where jobs and keys are, without secrets.
        ray_env: What a process needs in its environment to talk to the cluster.
        marks: Of the processes that the supervisor started, by which they are found after it was killed.
        ray_temp_dir: The head's own directory.
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
    """What `eda up` wrote down, or None."""
    try:
        up_file: UpFile = json.loads((home / "up.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return up_file
