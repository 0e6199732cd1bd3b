"""Wrong input never waits: each is answered at submit, with the field, what is wrong with it, and what to do instead.

A hub on loopback and a dashboard on loopback stand in for the public one and for Ray's.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from draft_files import put_draft
from fastapi.testclient import TestClient
from odd_checkpoints import prefixed, without
from odd_checkpoints import settings as settings_of
from pack_files import put_pack
from scripted_dashboard import Dashboard
from scripted_hub import ScriptedHub, refused, scripted_hub
from scripted_service import Answer, scripted_service
from tiny_models import write_adapter, write_target
from wrong_inputs import BODY, OVERRULED, WRONG, config

from api.app import create_app
from api.settings import Settings
from eda_service.jobstore import JobStore


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wrong-inputs")


@pytest.fixture(scope="module")
def hub(root: Path) -> Iterator[ScriptedHub]:
    with pytest.MonkeyPatch.context() as patch, scripted_hub(patch, root / "hub-cache") as opened:
        patch.setitem(sys.modules, "wandb", None)  # as where it is not installed
        opened.has("org/model")
        opened.has("org/base-only", "config.json", "pytorch_model.bin")
        opened.has("org/readme-only", "README.md")
        opened.has("org/encoder", config={"architectures": ["BertModel"], "hidden_size": 32, "vocab_size": 112})
        opened.has("org/large", config={"hidden_size": 4096, "vocab_size": 128_256})
        opened.has("org/rows", "train.parquet", kind="datasets")
        opened.has("org/lora", "adapter_config.json", "adapter_model.safetensors")
        opened.has("org/closed", gated=True)
        opened.has("org/closed-rows", "train.parquet", kind="datasets", gated=True)
        opened.lacks_revision("org/model", "mian")
        opened.fails("org/secret", refused(401, "RepoNotFound"))
        yield opened


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    with scripted_service() as service:
        made = Dashboard(service)
        made.takes_no_jobs()  # what is queued stays to be counted
        yield made


@pytest.fixture(scope="module")
def models(root: Path) -> Path:
    """Directories that a user may have: a model, adapters of it and of another one, and what is neither."""
    made = root / "models"
    model, wide = write_target(made / "model", "llama"), write_target(made / "wide", "llama", hidden_size=64)
    write_adapter(model, made / "lora", seed=0)
    write_adapter(wide, made / "lora-of-wide", seed=0)
    (made / "empty").mkdir()
    prefixed("_orig_mod.")(Path(shutil.copytree(model, made / "compiled")))
    without("chat_template.jinja")(Path(shutil.copytree(model, made / "wordless")))
    settings_of(tie_word_embeddings=False)(Path(shutil.copytree(model, made / "headless")))
    damaged = write_target(made / "damaged", "llama")
    (damaged / "model.safetensors").write_bytes(b"\xff" * 64)
    return made


@pytest.fixture(scope="module")
def settings(root: Path, dashboard: Dashboard, models: Path, hub: ScriptedHub) -> Settings:
    home = root / "home"
    put_draft(home)
    put_draft(home, "wide", hidden_size=64)
    spoilt = put_draft(home, "spoilt")
    (spoilt / "manifest.json").write_text("{}")
    put_pack(home, "math", 2.0)
    return Settings(
        home=home,
        local_roots=(models,),
        ray_dashboard_url=dashboard.url,
        dispatch_interval_s=0.05,
        serve=False,
        vllm_on_workers=False,
    )


@contextlib.contextmanager
def application(settings: Settings, **changes: Any) -> Iterator[TestClient]:
    changed = settings.model_copy(update=changes)
    with TestClient(create_app(changed), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with application(settings) as opened:
        yield opened


@pytest.fixture
def own_client(settings: Settings, tmp_path: Path) -> Iterator[TestClient]:
    """An application that has asked the hub nothing yet, over an empty database."""
    with application(settings, database_url=f"sqlite:///{tmp_path / 'own.db'}") as opened:
        yield opened


def store_of(client: TestClient) -> JobStore:
    found: JobStore = client.app.state.services.store  # type: ignore[attr-defined]
    return found


def body_of(name: str, models: Path, **more: Any) -> dict[str, Any]:
    changes = json.loads(json.dumps(WRONG[name][0]).replace("{models}", str(models)))
    return {**BODY, **changes, **more}


def test_there_are_forty_of_them() -> None:
    assert len(WRONG) >= 40


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_answered_at_submit(client: TestClient, models: Path, name: str) -> None:
    changes, code, param, words = WRONG[name]
    before = store_of(client).jobs.counts()
    answer = client.post("/v1/adaptations", json=body_of(name, models))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"] or "?") == (code, param), error
    assert [word for word in words if word not in error["message"]] == [], error["message"]
    if name not in OVERRULED:
        body = body_of(name, models, force=True)  # which does not help here
        assert client.post("/v1/adaptations", json=body).json()["error"] == error
        dry = client.post("/v1/adaptations", json={**body, "dry_run": True})
        assert (dry.status_code, dry.json()["error"]) == (400, error)
        if set(changes) <= {"model", "adapter", "base_draft", "preset", "config"}:
            openai = client.post("/v1/fine_tuning/jobs", json={**body, "training_file": "self"})
            assert (openai.status_code, openai.json()["error"]) == (400, error)
    assert store_of(client).jobs.counts() == before


def test_what_is_deployed_is_checked_as_far_as_it_is_served(client: TestClient, models: Path) -> None:
    """A model without a chat template completes texts; one whose weights are not its own does nothing."""
    for name, force, status in (("compiled", False, 400), ("compiled", True, 400), ("wordless", False, 201)):
        body = {"model": str(models / name), "base_draft": None, "name": name, "force": force}
        answer = client.post("/v1/deployments", json=body)
        assert answer.status_code == status, answer.text
        if status == 400:
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("target_incompatible", "model")
            assert "'_orig_mod.' in front" in error["message"]
    other_adapter = {"model": str(models / "model"), "adapter": str(models / "lora-of-wide"), "base_draft": None}
    error = client.post("/v1/deployments", json=other_adapter).json()["error"]
    assert (error["code"], error["param"]) == ("target_incompatible", "adapter")


def test_a_head_that_is_not_there_is_told_in_the_record(client: TestClient, models: Path) -> None:
    answer = client.post("/v1/adaptations", json={**BODY, "model": str(models / "headless")})
    assert answer.status_code == 201, answer.text
    events = store_of(client).events.of(answer.json()["id"])[0]
    told = [event.message for event in events if event.level == "warning"]
    assert [("no lm_head.weight" in message, "token embedding" in message) for message in told] == [(True, True)]


@pytest.mark.parametrize("name", OVERRULED)
def test_what_the_machines_lack_is_queued_by_force_and_told(client: TestClient, models: Path, name: str) -> None:
    body = body_of(name, models, force=True)
    estimate = client.post("/v1/adaptations/estimate", json=body).json()
    assert estimate["fits"] is False
    assert estimate["warnings"]
    answer = client.post("/v1/adaptations", json=body)
    assert answer.status_code == 201, answer.text
    events = store_of(client).events.of(answer.json()["id"])[0]
    told = [event for event in events if event.type == "queued_all_the_same"]
    assert [event.level for event in told] == ["warning"]
    assert WRONG[name][3][0] in told[0].message


@pytest.mark.parametrize("name", ["GPUs where there are none", "more than the disk holds"])
def test_an_estimate_says_what_the_machines_lack(client: TestClient, models: Path, name: str) -> None:
    answer = client.post("/v1/adaptations/estimate", json=body_of(name, models))
    assert answer.status_code == 200, answer.text
    assert answer.json()["fits"] is False
    assert any("GPUs" in warning or "of disk" in warning for warning in answer.json()["warnings"])


def test_what_is_right_is_queued(client: TestClient, models: Path) -> None:
    for changes in (
        {},
        {"model": str(models / "model"), "adapter": str(models / "lora")},
        {"dataset": {"source": "org/rows"}},
        {"adapter": "org/lora"},
        {"model": "smollm2-135m-math", "base_draft": "smollm2-135m"},
        {"model": "smollm2-135m-math", "base_draft": "smollm2-135m", "preset": "demo"},
    ):
        answer = client.post("/v1/adaptations", json={**BODY, **changes})
        assert answer.status_code == 201, answer.text
        job = store_of(client).jobs.get(answer.json()["id"])
        assert (job.cpus, job.gpus) == (pytest.approx(1.1), 0)


def test_a_hub_that_cannot_be_asked_is_a_reason_and_force_queues(own_client: TestClient, hub: ScriptedHub) -> None:
    client, store = own_client, store_of(own_client)
    hub.fails("org/elsewhere", Answer(status=503))
    body = {**BODY, "model": "org/elsewhere"}
    for path in ("/v1/adaptations", "/v1/adaptations/estimate"):
        error = client.post(path, json=body).json()["error"]
        assert (error["code"], error["param"]) == ("target_not_found", "model")
        assert "HTTP 503" in error["message"]
        assert "`force`" in error["message"]
    assert store.jobs.counts() == {}
    warnings = client.post("/v1/adaptations/estimate", json={**body, "force": True}).json()["warnings"]
    assert [each for each in warnings if "HTTP 503" in each]
    job = client.post("/v1/adaptations", json={**body, "force": True}).json()
    assert "HTTP 503" in store.events.of(job["id"])[0][1].message
    asked = hub.num_asked()
    assert client.post("/v1/adaptations", json={**BODY, "model": "org/another"}).status_code == 400
    assert hub.num_asked() == asked  # a hub that has just failed is left alone


def test_where_the_hub_is_skipped_nothing_is_refused_for_absence(
    settings: Settings, hub: ScriptedHub, tmp_path: Path
) -> None:
    asked = hub.num_asked()
    with application(settings, hub_at_submit="skip", database_url=f"sqlite:///{tmp_path / 'own.db'}") as client:
        body = {**BODY, "model": "org/nobody-knows", "dataset": {"source": "org/rwos"}}
        assert client.post("/v1/adaptations", json=body).status_code == 201
        assert client.post("/v1/adaptations", json={**BODY, "model": "smollm2-135m-mth"}).status_code == 400
    assert hub.num_asked() == asked


def test_a_cluster_that_grows_is_no_reason_to_refuse(settings: Settings, tmp_path: Path) -> None:
    body = {**BODY, **config(train={"use_gpu": True})}
    with application(settings, cluster_grows=True, database_url=f"sqlite:///{tmp_path / 'own.db'}") as client:
        estimate = client.post("/v1/adaptations/estimate", json=body).json()
        assert [each for each in estimate["warnings"] if "2 GPUs" in each]
        job = client.post("/v1/adaptations", json=body)
        assert job.status_code == 201, job.text
        assert "2 GPUs" in store_of(client).events.of(job.json()["id"])[0][1].message


def test_a_repeated_key_is_answered_whatever_has_become_of_the_hub(
    own_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = own_client
    monkeypatch.setattr("eda_service.targets.files.hub._FOUND_S", 0.0)
    headers = {"idempotency-key": "once"}
    first = client.post("/v1/adaptations", json=BODY, headers=headers)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = client.post("/v1/adaptations", json=BODY, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]


def test_a_retry_asks_nothing_again(client: TestClient, hub: ScriptedHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eda_service.targets.files.hub._FOUND_S", 0.0)
    hub.has("org/removed-later")
    body = {**BODY, "model": "org/removed-later"}
    job_id = client.post("/v1/adaptations", json=body).json()["id"]
    client.post(f"/v1/adaptations/{job_id}/cancel")
    hub.fails("org/removed-later", refused(404, "RepoNotFound"))
    assert client.post("/v1/adaptations", json=body).status_code == 400
    assert client.post(f"/v1/adaptations/{job_id}/retry").json()["status"] == "queued"


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("GET", "/v1/deployments/maht", None, ("'maht'", "did you mean 'math'", "/v1/deployments")),
        ("PATCH", "/v1/deployments/maht", {"pack": None}, ("did you mean 'math'",)),
        ("DELETE", "/v1/deployments/maht", None, ("did you mean 'math'",)),
        ("GET", "/v1/deployments/maht/events", None, ("did you mean 'math'",)),
        ("POST", "/v1/deployments/maht/rollback", {}, ("did you mean 'math'",)),
        ("POST", "/v1/deployments", {"model": "org/x", "pack": "mth"}, ("'mth'", "did you mean 'math'", "/v1/packs")),
        ("PATCH", "/v1/deployments/math", {"pack": "mth@1"}, ("did you mean 'math'",)),
        ("GET", "/v1/packs/mth", None, ("did you mean 'math'",)),
    ],
)
def test_names_of_packs_and_deployments_are_suggested(
    client: TestClient, method: str, path: str, body: Any, words: tuple[str, ...]
) -> None:
    made = client.post("/v1/deployments", json={"name": "math", "model": "org/model", "base_draft": "small@1"})
    assert made.status_code in (200, 201), made.text
    answer = client.request(method, path, json=body)
    assert answer.status_code == 404, answer.text
    error = answer.json()["error"]
    assert error["param"]
    assert [word for word in words if word not in error["message"]] == [], error["message"]


def test_a_suggestion_is_never_another_owner_s_name(own_client: TestClient, settings: Settings) -> None:
    client, store = own_client, store_of(own_client)
    ann, bob = (
        {"authorization": f"Bearer {store.keys.create(owner, 'k', ['jobs:read', 'jobs:write', 'infer'], None)[1]}"}
        for owner in ("ann", "bob")
    )
    job = client.post("/v1/adaptations", json=BODY, headers=ann).json()
    put_pack(settings.home, "secret-pack", 2.0, job_id=job["id"])
    request = {"name": "secret-name", "model": "org/model", "base_draft": "small@1"}
    assert client.post("/v1/deployments", json=request, headers=ann).status_code == 201
    for path in ("/v1/deployments/secret-nam", "/v1/packs/secret-pac"):
        assert "did you mean" in client.get(path, headers=ann).json()["error"]["message"]
        assert "did you mean" not in client.get(path, headers=bob).json()["error"]["message"]
