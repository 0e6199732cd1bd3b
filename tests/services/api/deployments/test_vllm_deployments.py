"""Engine `vllm` in `/v1/deployments` and in jobs, where vLLM is and where it is not; nothing starts one here."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from eda_service.raycluster.serve_plan import groups_of

BODY: dict[str, Any] = {"name": "pair", "model": "org/model", "base_draft": "small@1", "engine": "vllm"}


@pytest.fixture
def with_vllm(settings: Settings) -> Any:
    """An application whose workers have vLLM."""
    with TestClient(create_app(settings.model_copy(update={"vllm_on_workers": True}))) as opened:
        yield opened


@pytest.fixture
def without(settings: Settings) -> Any:
    """One whose workers have not."""
    with TestClient(create_app(settings.model_copy(update={"vllm_on_workers": False}))) as opened:
        yield opened


def test_without_vllm_it_is_refused_with_the_next_step(without: TestClient) -> None:
    answer = without.post("/v1/deployments", json=BODY)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unschedulable", "engine")
    assert "install `eda-service[vllm]`" in error["message"]
    job = {"model": "org/model", "config": {"selfgen": {"engine": "vllm"}}}
    answer = without.post("/v1/adaptations", json=job)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unschedulable", "target.engine")


def test_a_deployment_says_what_decodes_it_and_keeps_it(with_vllm: TestClient) -> None:
    wanted = {**BODY, "accelerator": "gpu", "vllm": {"form": "dense", "tensor_parallel_size": 2}}
    made = with_vllm.post("/v1/deployments", json=wanted)
    assert made.status_code == 201, made.text
    assert (made.json()["engine"], made.json()["accelerator"]) == ("vllm", "gpu")
    assert (made.json()["vllm"]["form"], made.json()["vllm"]["num_draft_tokens"]) == ("dense", 3)
    assert with_vllm.post("/v1/deployments", json=wanted).status_code == 200
    assert with_vllm.post("/v1/deployments", json=BODY).status_code == 409  # the same name on another accelerator
    changed = with_vllm.patch("/v1/deployments/pair", json={"replicas": 2}).json()
    assert (changed["engine"], changed["vllm"]["tensor_parallel_size"]) == ("vllm", 2)
    (group,) = groups_of(with_vllm.app.state.services.store.deployments.all())  # type: ignore[attr-defined]
    assert group.key == made.json()["group"]


def test_the_project_s_own_engine_shows_no_settings_of_vllm(with_vllm: TestClient) -> None:
    body = with_vllm.post("/v1/deployments", json={**BODY, "engine": "eda"}).json()
    assert (body["engine"], body["accelerator"], body["vllm"]) == ("eda", None, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"engine": "eda", "accelerator": "gpu"}, "settings of engine vllm"),
        ({"engine": "eda", "vllm": {"form": "dense"}}, "settings of engine vllm"),
        ({"vllm": {"tensor_parallel_size": 2}}, "a CPU replica has one rank"),
        ({"accelerator": "gpu", "vllm": {"swap": "beside"}}, "hold one engine"),
        ({"vllm": {"num_draft_tokens": 0}}, "num_draft_tokens"),
        ({"vllm": {"max_num_seq": 4}}, "did you mean vllm.max_num_seqs?"),
        ({"engine": "sglang"}, "engine"),
    ],
)
def test_settings_that_cannot_work_are_refused(with_vllm: TestClient, changes: dict[str, Any], says: str) -> None:
    answer = with_vllm.post("/v1/deployments", json={**BODY, **changes})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
