"""Storage for tests: a shared directory, or a bucket on a real S3 server; and machines that share nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def machine(home: Path) -> Iterator[Path]:
    """Be a machine with a disk of its own until the end of the block."""
    before = os.environ["EDA_HOME"]
    home.mkdir(parents=True, exist_ok=True)
    os.environ["EDA_HOME"] = str(home)
    try:
        yield home
    finally:
        os.environ["EDA_HOME"] = before
