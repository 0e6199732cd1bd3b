"""One browser and one service for all tests of the pages; pictures go to out/ui."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium
from playwright.sync_api import Browser
from ui_service import REPOSITORY, UiService, ui_service

from eda_service.raycluster.processes import free_port


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def serve_port() -> int:
    """Where the service looks for Serve; the playground's tests listen there."""
    return free_port()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, serve_port: int) -> Iterator[UiService]:
    with ui_service(tmp_path_factory.mktemp("ui") / "home", serve_port=serve_port) as running:
        yield running


@pytest.fixture(scope="session")
def pictures() -> Path:
    directory = REPOSITORY / "out" / "ui"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
