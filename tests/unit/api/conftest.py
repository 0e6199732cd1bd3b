"""A real application over a real database in a directory of its own; no cluster answers at its dashboard URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from eda_service.distributed.processes import free_port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home with one registered base draft; nobody listens at the dashboard's port."""
    home = tmp_path / "home"
    draft = home / "drafts" / "small" / "1"
    draft.mkdir(parents=True)
    (draft / "manifest.json").write_text("{}")
    (tmp_path / "allowed").mkdir()
    return Settings(
        home=home,
        local_roots=(tmp_path / "allowed",),
        ray_dashboard_url=f"http://127.0.0.1:{free_port()}",
        serve_port=free_port(),
        dispatch_interval_s=0.05,
        heartbeat_timeout_s=120.0,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The application, with its dispatcher running."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened
