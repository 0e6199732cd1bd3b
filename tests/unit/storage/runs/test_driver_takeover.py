"""A newer attempt takes the run directory over from a driver that Ray no longer knows of."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import WorkerLostError
from eda_service.storage.runs.heartbeat import SUPERSEDED_EXIT_CODE
from eda_service.storage.runs.run import RunDir

_DRIVER = """
import sys, time
from pathlib import Path
from eda_service.storage.runs.heartbeat import Heartbeat
from eda_service.storage.runs.run import RunDir
run = RunDir(Path(sys.argv[1]), attempt=1)
with run.driver_lock(timeout_s=5), Heartbeat(run):
    (run.root / "holding").touch()
    time.sleep(60)
"""


@pytest.fixture
def root(home: Path) -> Path:
    run = RunDir.of_job("adapt_1", home)
    run.create(AdaptConfig(target=TargetSpec(model="m")), origin="api")
    return run.root


@pytest.fixture
def driver(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The first attempt's driver, which holds the lock."""
    child = subprocess.Popen([sys.executable, "-c", _DRIVER, str(root)])
    deadline = time.monotonic() + 60
    while not (root / "holding").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield child
    child.kill()
    child.wait(10)


def test_a_newer_attempt_ends_the_driver_before_it(root: Path, driver: subprocess.Popen[bytes]) -> None:
    with RunDir(root, attempt=2).driver_lock(timeout_s=20):
        assert driver.wait(10) == SUPERSEDED_EXIT_CODE


def test_the_same_attempt_started_twice_leaves_the_first_alone(root: Path, driver: subprocess.Popen[bytes]) -> None:
    again = RunDir(root, attempt=1)
    with pytest.raises(WorkerLostError, match="another driver of adapt_1 still runs"), again.driver_lock(timeout_s=3):
        pass
    assert driver.poll() is None


def test_an_old_attempt_that_comes_late_supersedes_nobody(root: Path) -> None:
    new, old = RunDir(root, attempt=3), RunDir(root, attempt=2)
    with new.driver_lock(timeout_s=1):
        with pytest.raises(WorkerLostError), old.driver_lock(timeout_s=0.2):
            pass
        assert not new.is_superseded
        assert old.is_superseded


def test_a_job_resumed_by_hand_may_count_anew(root: Path) -> None:
    with RunDir(root, attempt=3).driver_lock(timeout_s=1):
        pass
    by_hand = RunDir(root, attempt=1)
    with by_hand.driver_lock(timeout_s=1):
        assert not by_hand.is_superseded
        RunDir(root, attempt=2)._ask_for_lock()
        assert by_hand.is_superseded
