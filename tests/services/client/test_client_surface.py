"""What importing the client costs, and that both clients are one interface."""

from __future__ import annotations

import inspect
import os
import resource
import statistics
import subprocess
import sys

from eda_service.client import AsyncClient, Client
from eda_service.client.chat import AsyncChat, Chat
from eda_service.client.deployments import AsyncDeployments, AsyncPacks, Deployments, Packs
from eda_service.client.files import AsyncFiles, Files
from eda_service.client.tasks import AsyncDrafts, AsyncJobs, AsyncMeasurements, Drafts, Jobs, Measurements

IMPORT_LIMIT_S = 0.5
METHODS = (
    "create", "estimate", "get", "page", "iterate", "cancel", "retry", "set_priority", "events", "stream_events",
    "logs", "follow_logs", "report", "report_page", "health", "models", "metrics", "samples", "watch", "wait", "close",
)  # fmt: skip


def cpu_s(code: str) -> float:
    """Processor time of a fresh interpreter running `code`: what it costs, however busy the machine is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_import_takes_less_than_half_a_second() -> None:
    cpu_s("import eda_service.client")  # fills the caches of a fresh checkout
    assert statistics.median(cpu_s("import eda_service.client") for _ in range(5)) < IMPORT_LIMIT_S


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, eda_service.client; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "httpx" in loaded
    assert loaded.isdisjoint({"torch", "ray", "deepspeed", "transformers", "sqlalchemy", "fastapi", "numpy"})


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    for name in METHODS:
        blocking, asynchronous = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
        assert blocking.parameters == asynchronous.parameters, name
    public = [{name for name in vars(kind) if not name.startswith("_")} for kind in (Client, AsyncClient)]
    assert public == [set(METHODS), set(METHODS)]
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters


def test_both_clients_have_the_same_resources() -> None:
    for blocking, asynchronous in (
        (Chat, AsyncChat),
        (Deployments, AsyncDeployments),
        (Packs, AsyncPacks),
        (Jobs, AsyncJobs),
        (Drafts, AsyncDrafts),
        (Measurements, AsyncMeasurements),
        (Files, AsyncFiles),
    ):
        public = [{name for name in vars(kind) if not name.startswith("_")} for kind in (blocking, asynchronous)]
        assert public[0] == public[1] != set()
        for name in public[0]:
            mine, other = (inspect.signature(getattr(kind, name)) for kind in (blocking, asynchronous))
            assert mine.parameters == other.parameters, name
