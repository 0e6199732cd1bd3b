"""A client of the module's service, and a Ray of this process's own for modules that run stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from running import Service
from training_inputs import write_inputs

from eda_service.client import Client
from eda_service.drafts.draft import Draft
from eda_service.raycluster.resources import connect
from eda_service.targets.loader import Target


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """Talks to whatever `service` the test's module starts."""
    with Client(str(service.up_file["api_url"])) as opened:
        yield opened


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A private local Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        connect()
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def group_inputs(
    tmp_path_factory: pytest.TempPathFactory, tiny_target: Target, make_fitted_draft: Callable[..., Draft]
) -> Path:
    """What the groups of `training_group` train on."""
    return write_inputs(tmp_path_factory.mktemp("group"), tiny_target, make_fitted_draft("llama"))
