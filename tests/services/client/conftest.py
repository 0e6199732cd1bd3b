"""Both clients, a scripted service and the real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from both_clients import InLoop, MakeClient
from live_api import LiveApi, live_api
from scripted_service import ScriptedService, scripted_service

from eda_service.client import Client


@pytest.fixture(params=[Client, InLoop], ids=["blocking", "asynchronous"])
def make_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    """Makes clients that lose no time between retries; closes them."""
    monkeypatch.delenv("EDA_API_KEY", raising=False)
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        made.append(request.param(url, **{"backoff_s": 0.01, "patience_s": 10.0, **options}))
        return made[-1]

    yield make
    for client in made:
        client.close()


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
