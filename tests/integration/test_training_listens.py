"""What a training group listens on while it trains: loopback, where there is one node."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from running import listeners_of, off_loopback
from training_group import train
from waiting import TEST_TIMEOUT_S

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]


def test_workers_meet_on_loopback(cluster: None, group_inputs: Path) -> None:
    seen: set[tuple[str, str]] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            seen.update(listeners_of(psutil.Process()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert train(group_inputs, "listens", epochs=1).step > 0
    finally:
        ended.set()
        watcher.join()
    assert any("RayTrainWorker" in name for _, name in seen)
    assert any("gcs_server" in name for _, name in seen)
    assert off_loopback(sorted(seen)) == []
