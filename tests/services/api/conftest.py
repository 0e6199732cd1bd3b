"""A real application over a real database in a directory of its own; no cluster answers at its dashboard URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from draft_files import put_draft
from fastapi.testclient import TestClient
from scripted_service import Answer, ScriptedService, scripted_service
from webhook_receiver import Receiver, make_certificate, webhook_receiver

from api.app import create_app
from api.settings import Settings
from eda_service.jobstore import JobStore
from eda_service.raycluster.processes import free_port


@pytest.fixture
def proxy() -> Iterator[ScriptedService]:
    """A scripted server in the place of Serve's proxy, for modules whose `serve_port` is its port."""
    with scripted_service() as opened:
        yield opened


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of a webhook receiver on loopback, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def receiver(certificate: tuple[Path, Path]) -> Iterator[Receiver]:
    """A real receiver of webhooks."""
    with webhook_receiver(*certificate) as opened:
        yield opened


@pytest.fixture
def ray() -> Iterator[ScriptedService]:
    """A scripted dashboard that accepts every job."""
    with scripted_service() as opened:
        opened.on("GET", "/api/version", Answer({"session_name": "s"}))
        opened.on("POST", "/api/jobs/", Answer({}))
        yield opened


@pytest.fixture
def serve_port() -> int:
    """Where the gateway looks for Serve; nobody listens there unless a module says so."""
    return free_port()


@pytest.fixture
def settings(tmp_path: Path, serve_port: int) -> Settings:
    """A home with one registered base draft; nobody listens at the dashboard's port."""
    home = tmp_path / "home"
    put_draft(home)
    (tmp_path / "allowed").mkdir()
    return Settings(
        home=home,
        local_roots=(tmp_path / "allowed",),
        ray_dashboard_url=f"http://127.0.0.1:{free_port()}",
        serve_port=serve_port,
        hub_at_submit="skip",
        dispatch_interval_s=0.05,
        heartbeat_timeout_s=120.0,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The application, with its dispatcher running."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def store(client: TestClient) -> JobStore:
    """The application's own store."""
    found: JobStore = client.app.state.services.store  # type: ignore[attr-defined]
    return found
