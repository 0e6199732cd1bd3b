"""The directories in which callers may name files (`EDA_LOCAL_ROOTS`), never the service's own.

The API's process has the variable from `eda up --allow` or the operator. Jobs and replicas have it from the service, so
that the API's check at submit is repeated where the file is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from eda_service.environment import Environment
from eda_service.storage.inputs.beneath import Roots
from eda_service.storage.runs.run import home_dir

VARIABLE = "EDA_LOCAL_ROOTS"


def roots_for(directories: Iterable[Path], home: Path) -> Roots:
    """Make the roots of a service; its home, and a directory that is its storage, are private."""
    return Roots.of(directories, private=[home, *_storage_directories()])


def current_roots() -> Roots | None:
    """Return the roots of the service that this process works for; None in a process that was started by hand."""
    directories = Environment.read().local_roots
    return roots_for(directories, home_dir()) if directories else None


def roots_env(directories: Iterable[Path]) -> dict[str, str]:
    """Return the variable for the environment of a job; empty without roots."""
    value = os.pathsep.join(str(path) for path in directories)
    return {VARIABLE: value} if value else {}


def _storage_directories() -> list[Path]:
    url = Environment.read().storage
    if url.startswith("/"):
        return [Path(url)]
    parts = urlsplit(url)
    return [Path(unquote(parts.path))] if parts.scheme == "file" and parts.path else []
