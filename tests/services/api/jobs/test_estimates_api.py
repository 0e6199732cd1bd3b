"""Estimates and dry runs: the checks of a real request, numbers that follow the config, and nothing stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tiny_models import draft_config, random_draft, register_draft, write_target

from api.settings import Settings
from eda_service.drafts.draft_config import PrivateConfig, parameter_counts
from eda_service.targets.loader import Target

MODES = ("/v1/adaptations/estimate", "/v1/adaptations")


@pytest.fixture
def body(settings: Settings, tiny_target: Target) -> dict[str, Any]:
    """A job on a tiny target, as one would post it."""
    path = write_target(settings.local_roots[0] / "tiny", "llama")
    register_draft(settings.home, random_draft(tiny_target), tiny_target)
    return {"model": str(path), "base_draft": "tiny@1", "dataset": {"source": "self", "num_prompts": 116}}


@pytest.mark.parametrize("url", MODES)
def test_an_estimate_says_what_the_job_needs_and_stores_nothing(
    client: TestClient, body: dict[str, Any], tiny_target: Target, url: str
) -> None:
    config = {"train": {"private_width_fraction": 0.5, "batch_size": 8, "epochs": 2}}
    answer = client.post(url, json={**body, "config": config, "dry_run": url == MODES[1]})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["object"] == "adaptation.estimate"
    # 116 prompts of 512 and answers of 160 tokens, 32 features of 2 bytes, half of them twice; embedding and head
    assert found["disk_bytes"] == round(116 * 672 * 32 * 2 * 1.5) + 2 * 112 * 32 * 2
    assert found["free_disk_bytes"] > found["disk_bytes"]
    # 16 of 116 are held out for the evaluation, half of the rest is kept, a tenth of that held out of training
    assert (found["num_samples"], found["num_train_steps"]) == (100, 2 * 6)
    shape = draft_config(tiny_target)
    width = PrivateConfig(private_width=shape.expert_width // 2)
    assert found["trainable_parameters"] == parameter_counts(shape, width, train_fc=False)[1]
    assert found["fits"] is True
    assert [warning for warning in found["warnings"] if "no job has ended here yet" not in warning] == []
    seconds = found["seconds"]
    assert seconds["total"] == pytest.approx(
        sum(seconds[part] for part in ("start", "generate", "train", "evaluate")), abs=3
    )
    assert client.get("/v1/adaptations").json()["data"] == []


def test_each_stage_says_what_it_asks_of_ray_and_takes(client: TestClient, body: dict[str, Any]) -> None:
    config = {"train": {"use_gpu": True, "num_workers": 4}, "selfgen": {"num_actors": 8, "shard_size": 25}}
    found = client.post(MODES[0], json={**body, "config": config}).json()
    stages = {stage["stage"]: stage for stage in found["stages"]}
    placed = {name: (stage["placement"], stage["workers"], stage["gpus"]) for name, stage in stages.items()}
    assert placed == {
        "validate": ("task", 1, 1),
        "generate": ("pool", 4, 1),  # 100 samples are four shards of 25: no work for eight actors
        "select": ("driver", 0, 0),
        "train": ("pack", 4, 1),
        "evaluate": ("task", 1, 1),
        "publish": ("driver", 0, 0),
    }
    assert found["device"] == "h100"
    assert sum(stage["seconds"] for stage in stages.values()) == pytest.approx(found["seconds"]["total"], abs=1)
    assert stages["generate"]["memory_bytes"] > 0 < stages["train"]["memory_bytes"]


def test_time_follows_from_what_the_last_job_took(client: TestClient, settings: Settings, body: dict[str, Any]) -> None:
    slow = {"dataset": {"source": "self", "num_prompts": 100_000}}  # so many that seconds can be read off
    plain = client.post(MODES[0], json={**body, **slow}).json()
    assert [warning for warning in plain["warnings"] if "no job has ended here yet" in warning]
    factors = {"generate": 2.0, "train": 3.0, "evaluate": 1.0}
    starts = {"generate_start_s": 40.0, "train_start_s": 50.0, "validate_s": 7.0}
    kept = {"device": "core", "calibration": {**factors, **starts}}
    (settings.home / "calibration.json").write_text(json.dumps(kept))
    found = client.post(MODES[0], json={**body, **slow}).json()
    assert not [warning for warning in found["warnings"] if "no job has ended here yet" in warning]
    assert plain["seconds"]["generate"] > 20 < plain["seconds"]["train"]
    copied_s = next(stage["seconds"] for stage in plain["stages"] if stage["stage"] == "select")
    generated_s = found["seconds"]["generate"] - copied_s
    assert generated_s == pytest.approx(2 * (plain["seconds"]["generate"] - copied_s), abs=2)
    assert found["seconds"]["train"] == pytest.approx(3 * plain["seconds"]["train"], abs=2)
    assert found["seconds"]["start"] == pytest.approx(40 + 50 + 7, abs=1)


@pytest.mark.parametrize("url", MODES)
def test_a_draft_of_another_size_is_refused_field_by_field(client: TestClient, body: dict[str, Any], url: str) -> None:
    answer = client.post(url, json={**body, "base_draft": "smollm2-135m", "dry_run": True})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("target_incompatible", "base_draft")
    assert "hidden_size: draft 576, target 32; vocab_size: draft 49152, target 112" in error["message"]


def test_a_target_that_is_not_here_is_as_large_as_its_draft_says(client: TestClient, body: dict[str, Any]) -> None:
    here = client.post(MODES[0], json=body).json()
    elsewhere = client.post(MODES[0], json={**body, "model": "nobody/knows"}).json()
    assert elsewhere["disk_bytes"] == here["disk_bytes"]
    assert [warning for warning in elsewhere["warnings"] if "nobody/knows is not on this machine" in warning]


@pytest.mark.parametrize(
    ("changes", "measured_on"),
    [
        ({}, "16 of the prompts that the target wrote itself"),
        ({"dataset": {"source": "reasoning-gym:gsm_symbolic"}}, "16 prompts split off reasoning-gym:gsm_symbolic"),
        (
            {"preset": "demo", "dataset": {"num_prompts": 99}},
            "16 prompts of reasoning-gym:gsm_symbolic?templates=80-99",
        ),
        ({"eval_dataset": {"source": "org/held", "num_prompts": 8}}, "8 prompts of org/held"),
    ],
)
def test_it_says_on_what_the_draft_will_be_measured(
    client: TestClient, body: dict[str, Any], changes: dict[str, Any], measured_on: str
) -> None:
    answer = client.post(MODES[0], json={**body, **changes})
    assert answer.json()["measured_on"] == measured_on, answer.text


def test_a_file_of_prompts_is_named_without_its_place(
    client: TestClient, body: dict[str, Any], settings: Settings
) -> None:
    path = settings.local_roots[0] / "mine.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(400)))
    answer = client.post(MODES[0], json={**body, "preset": "demo", "dataset": {"source": str(path)}})
    assert answer.json()["measured_on"] == "16 prompts split off mine.jsonl"


def test_more_than_the_disk_holds_does_not_fit(client: TestClient, body: dict[str, Any]) -> None:
    huge = {"dataset": {"source": "self", "num_prompts": 1_000_000}, "config": {"selfgen": {"max_new_tokens": 32_768}}}
    found = client.post(MODES[0], json={**body, **huge, "config": {"selfgen": {"max_prompt_tokens": 131_072}}}).json()
    assert found["fits"] is False
    assert [warning for warning in found["warnings"] if "of disk" in warning]


@pytest.mark.parametrize("url", MODES)
@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "/nowhere"}, "model"),
        ({"base_draft": "nobody@1"}, "base_draft"),
        ({"webhook": {"url": "http://x.org/hook"}}, "webhook.url"),
        ({"webhook": {"url": "https://x.org/hook", "secret": "short"}}, "webhook.secret"),
        ({"stage_deadlines": {"train": 0}}, "stage_deadlines.train"),
        ({"stage_deadlines": {"sleep": 5}}, "stage_deadlines"),
    ],
)
def test_a_bad_request_is_refused_as_the_real_one_would_be(
    client: TestClient, body: dict[str, Any], url: str, changes: dict[str, Any], param: str
) -> None:
    answer = client.post(url, json={**body, **changes, "dry_run": True})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert client.get("/v1/adaptations").json()["data"] == []


def test_the_api_process_imports_no_torch_and_no_ray() -> None:
    code = "import api.app, sys; print([m for m in ('torch', 'ray', 'deepspeed', 'transformers') if m in sys.modules])"
    root = Path(__file__).resolve().parents[4]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
