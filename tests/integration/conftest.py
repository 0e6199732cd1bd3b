"""A client of the module's service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running import Service

from eda_service.client import Client


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """Talks to whatever `service` the test's module starts."""
    with Client(str(service.facts["api_url"])) as opened:
        yield opened
