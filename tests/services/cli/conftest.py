"""The command line in this process, against a scripted service or the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Cli
from live_api import LiveApi, live_api
from scripted_service import ScriptedService, scripted_service


@pytest.fixture
def scripted() -> Iterator[ScriptedService]:
    """A server that does what the test says."""
    with scripted_service() as service:
        yield service


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    """The real application."""
    with live_api(tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest.fixture
def eda(tmp_path: Path) -> Cli:
    """Runs `eda` with a home of its own; without `--url` it looks for the service of that home."""
    return Cli(tmp_path / "home")
