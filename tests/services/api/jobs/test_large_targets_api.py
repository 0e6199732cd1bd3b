"""At submit: whether the cluster has what vLLM asks for, and whether the target's heads go into its ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from draft_files import put_draft
from fastapi.testclient import TestClient
from scripted_dashboard import Dashboard
from scripted_service import scripted_service
from tiny_models import write_target

from api.app import create_app
from api.settings import Settings

SIZE = "target.vllm.tensor_parallel_size"
URLS = ("/v1/adaptations/estimate", "/v1/adaptations")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service beside eight nodes of one H100."""
    root = tmp_path_factory.mktemp("large-targets")
    put_draft(root / "home")
    write_target(root / "models" / "model", "llama")  # four heads, two of keys and values
    with scripted_service() as service:
        dashboard = Dashboard(service)
        dashboard.takes_no_jobs()
        dashboard.has(*[{"CPU": 8.0, "GPU": 1.0, "accelerator_type:H100": 1.0}] * 8)
        settings = Settings(
            home=root / "home",
            local_roots=(root / "models",),
            ray_dashboard_url=dashboard.url,
            hub_at_submit="skip",
            serve=False,
            vllm_on_workers=True,
        )
        with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
            yield opened


@pytest.fixture
def body(client: TestClient) -> dict[str, Any]:
    model = client.app.state.services.settings.local_roots[0] / "model"  # type: ignore[attr-defined]
    return {"model": str(Path(model)), "base_draft": "small@1"}


def vllm(size: int, **settings: Any) -> dict[str, Any]:
    return {
        "config": {
            "target": {"engine": "vllm", "vllm": {"tensor_parallel_size": size, **settings}},
            "train": {"use_gpu": True, "num_workers": 1},
        }
    }


@pytest.mark.parametrize("url", URLS)
def test_heads_that_do_not_go_into_the_ranks_are_refused(client: TestClient, body: dict[str, Any], url: str) -> None:
    answer = client.post(url, json={**body, **vllm(3), "force": True})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("target_incompatible", SIZE)
    assert "4 attention heads" in error["message"]
    assert "set it to one of 1, 2, 4" in error["message"]


def test_an_engine_that_no_node_holds_waits_only_by_force(client: TestClient, body: dict[str, Any]) -> None:
    wide = {**body, **vllm(4)}
    error = client.post(URLS[1], json=wide).json()["error"]
    assert (error["code"], error["param"]) == ("unschedulable", SIZE)
    assert error["message"].startswith("vLLM asks for 4 GPUs of one node and no node of the cluster has more than 1")
    queued = client.post(URLS[1], json={**wide, "force": True})
    assert queued.status_code == 201, queued.text
    job = client.app.state.services.store.jobs.get(queued.json()["id"])  # type: ignore[attr-defined]
    assert (job.cpus, job.gpus) == (pytest.approx(2.1), 4)
    assert (job.node_cpus, job.node_gpus) == (2.0, 4)


def test_the_memory_of_the_clusters_gpus_is_held_against_the_job(client: TestClient, body: dict[str, Any]) -> None:
    # 2 % of 80 GB is less than the 3 GB that vLLM keeps for itself
    short = client.post(URLS[0], json={**body, **vllm(1, gpu_memory_fraction=0.02)}).json()
    assert short["fits"] is False
    told = [each for each in short["warnings"] if "on one h100, of which vLLM may take 1.6 GB" in each]
    assert [each[:14] for each in told] == ["generate needs", "evaluate needs"]


def test_an_estimate_is_for_the_gpus_that_are_there(client: TestClient, body: dict[str, Any]) -> None:
    found = client.post(URLS[0], json={**body, **vllm(1)}).json()
    assert (found["fits"], found["device"]) == (True, "h100")
    assert found["target"]["room_bytes"] == 72e9
    assert (found["target"]["devices"], found["target"]["nodes"]) == (1, 1)
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert (stages["validate"]["gpus"], stages["generate"]["gpus"]) == (0, 1)
    assert stages["generate"]["host_memory_bytes"] > 0
