"""Names, paths and documents at submit that look like one thing and are another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from eda_service.config.job import DatasetSpec, TargetSpec
from eda_service.errors import DatasetInvalidError, TargetNotFoundError
from eda_service.selfgen.prompts import load_prompts
from eda_service.targets.files.resolve import is_here, resolve_target

BODY: dict[str, Any] = {"model": "org/model", "base_draft": "small@1"}


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    return tmp_path / "allowed"


def send(client: TestClient, body: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps({**BODY, **body}).encode()
    return client.post("/v1/adaptations", content=content, headers={"content-type": "application/json"})


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return {"train": value}


@pytest.mark.parametrize("depth", [17, 60, 300, 900])
@pytest.mark.parametrize("path", ["/v1/adaptations", "/v1/adaptations/estimate", "/v1/fine_tuning/jobs"])
def test_a_deeply_nested_config_is_refused(client: TestClient, path: str, depth: int) -> None:
    body = {**BODY, "config": nested(depth), **({"training_file": "self"} if "fine" in path else {})}
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert "16 deep" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"[" * 300_000, "invalid_request"),
        (b'{"config":' + b'{"a":' * 100_000, "invalid_request"),
        (b'{"seed":' + b"9" * 100_000 + b"}", "invalid_request"),
        (b'{"model":"\\ud800"}', "invalid_request"),
        (b"\xff\xfe", "invalid_json"),
    ],
)
def test_a_body_that_is_no_text_or_has_no_end_is_a_400(client: TestClient, content: bytes, code: str) -> None:
    answer = send(client, content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "org/model\n"},
        {"model": "org/model\r"},
        {"adapter": "org/lora\n"},
        {"base_draft": "small@1\n"},
        {"revision": "main\n"},
        {"served_name": "name\n"},
        {"dataset": {"source": "org/data\n"}},
        {"dataset": {"source": "reasoning-gym:gsm_symbolic\n"}},
        {"dataset": {"source": "http://169.254.169.254/latest"}},
        {"dataset": {"source": "file:///etc/passwd"}},
        {"dataset": {"source": "s3://bucket/x.jsonl"}},
        {"dataset": {"source": "~root/x.jsonl"}},
        {"model": "../model"},
        {"model": "org/../model"},
        {"model": "a/b/c"},
    ],
)
def test_a_name_is_a_name_to_its_end(client: TestClient, change: dict[str, Any]) -> None:
    answer = send(client, change)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"]


def test_a_link_inside_a_checkpoint_that_leads_out_is_refused(
    client: TestClient, allowed: Path, new_target_dir: Callable[..., Path]
) -> None:
    model, outside = new_target_dir(allowed / "model", "llama"), allowed.parent / "outside.safetensors"
    (model / "model.safetensors").rename(outside)
    (model / "model.safetensors").symlink_to(outside)
    answer = send(client, {"model": str(model)})
    assert answer.status_code == 400
    assert "link to outside" in answer.json()["error"]["message"]
    (model / "model.safetensors").unlink()
    outside.rename(allowed / "blob")
    (model / "model.safetensors").symlink_to(allowed / "blob")  # as the hub's cache does
    assert send(client, {"model": str(model)}).status_code == 201


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"[" * 200_000, "line 1: not JSON"),
        (b'{"prompt": "\\ud800"}', "line 1: not JSON"),
        (b'{"prompt": "' + b"x" * (8 << 20) + b'"}', "more than"),
    ],
)
def test_a_line_of_a_prompt_file_is_bounded(client: TestClient, allowed: Path, line: bytes, problem: str) -> None:
    path = allowed / "prompts.jsonl"
    path.write_bytes(line + b"\n")
    answer = send(client, {"dataset": {"source": str(path)}})
    assert answer.status_code == 400
    assert problem in answer.json()["error"]["message"]
    with pytest.raises(DatasetInvalidError, match="line 1"):
        load_prompts(DatasetSpec(source=str(path), num_prompts=8), seed=0)


def test_an_id_is_never_a_path_of_the_process_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots are checked at submit; a stage must not find `owner/name` under its own working directory."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "rows.jsonl").write_text('{"prompt": "x"}\n' * 8)
    (tmp_path / "secret" / "model").mkdir()
    with pytest.raises(DatasetInvalidError, match="is a path here"):
        load_prompts(DatasetSpec(source="secret/rows.jsonl", num_prompts=8), seed=0)
    assert not is_here(TargetSpec(model="secret/model"))
    with pytest.raises(TargetNotFoundError, match="hub"):
        resolve_target(TargetSpec(model="secret/model"))


@pytest.mark.parametrize(
    "change",
    [
        {"entrypoint": "touch /tmp/x"},
        {"runtime_env": {"env_vars": {"LD_PRELOAD": "x"}}},
        {"config": {"entrypoint": "x"}},
        {"config": {"runtime_env": {}}},
        {"config": {"target": {"trust_remote_code": True}}},
        {"config": {"train": {"command": "x"}}},
        {"dataset": {"source": "self", "script": "x"}},
        {"base_draft": "small@1; touch /tmp/x"},
        {"model": "org/model; touch /tmp/x"},
        {"model": "$(id)"},
        {"served_name": "`id`"},
        {"preset": "demo --help"},
    ],
)
def test_what_runs_cannot_be_named(client: TestClient, change: dict[str, Any]) -> None:
    answer = send(client, change)
    assert answer.status_code in (400, 404)
    assert client.get("/v1/adaptations").json()["data"] == []
