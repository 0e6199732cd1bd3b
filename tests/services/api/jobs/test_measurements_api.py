"""`/v1/measurements` over the real application: what is checked at submit, and how a result is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pack_files import fingerprint, put_pack
from scripted_service import ScriptedService
from waiting import wait_for

from api.app import create_app
from api.settings import Settings
from eda_service.config.tasks import MeasureConfig
from eda_service.measured_rows import AcceptanceRow
from eda_service.measurement import Measurement
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir
from eda_service.task_records import MeasureRecord

BODY = {"model": "org/model", "draft": "small@1"}


@pytest.fixture
def dispatching(settings: Settings, ray: ScriptedService) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"ray_dashboard_url": ray.url}))
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


def record(config: MeasureConfig) -> MeasureRecord:
    row = AcceptanceRow(
        draft="base_draft",
        temperature=0.0,
        mean_accepted=1.5,
        acceptance_length=2.5,
        acceptance_rate=0.3,
        acceptance_by_position=(0.7, 0.5, 0.3),
        num_rounds=100,
        num_new_tokens=250,
    )
    return MeasureRecord(
        stage=Stage.MEASURE,
        created_at=1,
        seconds=2.0,
        config=config.model_dump(mode="json"),
        seed=0,
        library_versions={},
        inputs={},
        target=fingerprint(model="org/model"),
        draft=config.draft,
        pack=None,
        measurement=Measurement(num_prompts=8, acceptance=(row,), coverage=0.97, advice="It loses little."),
    )


def test_a_measurement_is_a_job_that_ends_with_its_numbers(
    dispatching: TestClient, ray: ScriptedService, settings: Settings
) -> None:
    answer = dispatching.post("/v1/measurements", json={**BODY, "temperatures": [0.0]})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/measurements/{job_id}"
    run = RunDir(settings.home / "runs" / job_id, attempt=1)
    wait_for(lambda: ray.seen("POST", "/api/jobs/"), what="the submission", interval_s=0.02)
    sent = [request.body["entrypoint"] for request in ray.seen("POST", "/api/jobs/")]
    assert sent == [f"python -m jobs.measure --job-id {job_id}"]
    before = dispatching.get(f"/v1/measurements/{job_id}").json()
    assert (before["draft"], before["pack"], before["measurement"]) == ("small@1", None, None)
    config = run.task()
    assert isinstance(config, MeasureConfig)
    assert config.temperatures == (0.0,)
    run.write_record(record(config))
    run.succeed_with(job_id)
    found: dict[str, Any] = {}

    def is_over() -> bool:
        found.update(dispatching.get(f"/v1/measurements/{job_id}").json())
        return bool(found["status"] == "succeeded")

    wait_for(is_over, what="the measurement", interval_s=0.02)
    assert found["result"] == job_id
    assert found["measurement"]["acceptance"][0]["acceptance_length"] == 2.5
    assert (found["measurement"]["coverage"], found["measurement"]["advice"]) == (0.97, "It loses little.")


def test_what_is_measured_is_looked_for_at_submit(client: TestClient, settings: Settings, tmp_path: Path) -> None:
    put_pack(settings.home, "mine", 2.0)
    prompts = tmp_path / "allowed" / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(12)))
    body = {**BODY, "pack": "mine", "dataset": {"source": str(prompts)}}
    config = client.post("/v1/measurements", json=body).json()["config"]
    assert (config["pack"], config["draft"]) == ("mine@1", "small@1")
    assert (config["dataset"]["num_prompts"], len(config["dataset"]["sha256"])) == (12, 64)

    def refused(**changes: Any) -> tuple[str, str]:
        answer = client.post("/v1/measurements", json={**BODY, **changes})
        assert answer.status_code in {400, 404}, answer.text
        return answer.json()["error"]["code"], answer.json()["error"]["param"]

    other = put_pack(settings.home, "other", 2.0, base_draft="smollm2-135m@3")
    assert refused(draft="none@1") == ("base_draft_missing", "draft")
    assert refused(pack="none@1") == ("not_found", "pack")
    assert refused(pack=other) == ("invalid_request", "pack")
    assert refused(model="/etc") == ("invalid_request", "model")
    assert refused(base_model="/etc") == ("invalid_request", "base_model")
    assert refused(dataset={"source": "/etc/hostname"}) == ("invalid_request", "dataset.source")
    assert refused(dataset={"source": str(prompts), "num_prompts": 13}) == ("dataset_invalid", "dataset.num_prompts")
    assert refused(dataset={"source": "reasoning-gym:no_such_task"})[0] == "dataset_invalid"
    assert refused(temperatures=[1.0, 1.0])[0] == "invalid_request"
    assert refused(temperatures=[])[1].startswith("temperatures")
    assert refused(num_draft_tokens=0) == ("invalid_request", "num_draft_tokens")
