"""`eda deployments` against the real application, and what only a cluster shows against a script."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from command_line import Cli
from live_api import LiveApi
from pack_files import put_pack
from scripted_service import Answer, ScriptedService

ROOT = "/v1/deployments"


def made(eda: Cli, live: LiveApi, *options: str) -> dict[str, Any]:
    """Deploy by the command, under a name of its own; returns the JSON."""
    name = f"d-{uuid.uuid4().hex[:8]}"
    done = eda("deployments", "create", "org/model", "--name", name, "--json", *options, url=live.url)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_life_of_a_deployment(eda: Cli, live: LiveApi) -> None:
    pack = f"p-{uuid.uuid4().hex[:8]}"
    for length in (2.0, 2.5, 1.9):
        put_pack(live.home, pack, length)
    body = made(eda, live, "--base-draft", "small@1", "--replicas", "1-3", "--label", "team=math")
    name = body["name"]
    assert (body["state"], body["replicas"], body["labels"]) == (
        "pending", {"min": 1, "max": 3, "round_ms": None, "running": 0}, {"team": "math"},
    )  # fmt: skip
    changed = eda("deployments", "update", name, "--pack", f"{pack}@2", "--reason", "try", url=live.url)
    assert changed.stdout == f"{name} pending revision 2: {pack}@2\n"
    refused = eda("deployments", "update", name, "--pack", f"{pack}@latest", "--json", url=live.url)
    assert refused.exit_code == 2
    assert json.loads(refused.stderr)["error"]["code"] == "acceptance_regression"
    assert eda("deployments", "update", name, "--pack", pack, "--force", url=live.url).exit_code == 0
    back = eda("deployments", "rollback", name, "--json", url=live.url)
    assert json.loads(back.stdout)["pack"] == f"{pack}@2"
    shown = eda("deployments", "show", name, url=live.url)
    assert f"{pack}@2" in shown.stdout.splitlines()[1]
    assert "reason  Ray does not answer" in shown.stdout
    history = json.loads(eda("deployments", "show", name, "--json", url=live.url).stdout)["revisions"]
    assert [each["reason"] for each in history] == ["rolled back to revision 2", "changed pack", "try", "created"]
    assert json.loads(eda("deployments", "update", name, "--no-pack", "--json", url=live.url).stdout)["pack"] is None
    assert name in eda("deployments", "ls", url=live.url).stdout
    assert name in {each["name"] for each in json.loads(eda("deployments", "ls", "--json", url=live.url).stdout)}
    assert eda("deployments", "rm", name, url=live.url).stdout == f"removed {name}\n"
    assert eda("deployments", "show", name, url=live.url).exit_code == 2


def test_directories_are_named_in_full(eda: Cli, live: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service has a working directory of its own."""
    files = live.home.parent
    monkeypatch.chdir(files)
    (files / "my-lora").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (files / "my-lora" / name).write_text("{}")
    body = made(eda, live, "--no-draft", "--adapter", "my-lora")
    assert body["adapter"] == str(files / "my-lora")
    assert eda("deployments", "rm", body["name"], url=live.url).exit_code == 0


def test_slowing_another_deployment_down_is_asked_for(eda: Cli, live: LiveApi) -> None:
    shared = ("deployments", "create", "org/slowed", "--no-draft")
    assert eda(*shared, "--adapter", "org/lora", "--name", "merged", url=live.url).exit_code == 0
    refused = eda(*shared, "--name", "beside", url=live.url)
    assert refused.exit_code == 2
    assert "merged is the only one of your deployments on its base" in refused.stderr
    assert "--yes" in refused.stderr
    done = eda(*shared, "--name", "beside", "--yes", url=live.url)
    assert done.stdout == "beside pending revision 1: no draft\n"
    assert "merged is no longer merged" in " ".join(done.stderr.split())
    for name in ("beside", "merged"):
        assert eda("deployments", "rm", name, url=live.url).exit_code == 0


def test_without_speculation(eda: Cli, live: LiveApi) -> None:
    body = made(eda, live, "--no-draft", "--adapter", "org/lora", "--revision", "main", "--dtype", "float32")
    assert (body["base_draft"], body["adapter"], body["model"]) == (None, "org/lora", "org/model")
    assert json.loads(eda("deployments", "rm", body["name"], "--json", url=live.url).stdout)["deleted"] is True


@pytest.mark.parametrize(
    "options",
    [
        ("create", "m", "--replicas", "many"),
        ("create", "m", "--replicas", "2", "--round-ms", "80"),
        ("update", "m", "--drift", "below"),
        ("update", "m", "--drift", "redact=[a"),
        ("create", "m", "--no-draft", "--base-draft", "d@1"),
        ("update", "m", "--pack", "p", "--no-pack"),
        ("update", "m", "--label", "x"),
        ("show", "../jobs"),
    ],
)
def test_what_cannot_be_sent_is_refused_here(eda: Cli, scripted: ScriptedService, options: tuple[str, ...]) -> None:
    assert eda("deployments", *options, url=scripted.url).exit_code == 2
    assert scripted.requests == []


def shown(state: str, **fields: Any) -> Answer:
    replicas = {"min": 1, "max": 1, "running": 1}
    facts = {"name": "pair", "state": state, "model": "m", "replicas": replicas, "revision": 2, "pack": "p@2"}
    return Answer({**facts, "created_at": 1, "updated_at": 1, **fields})


def test_waiting_and_memory(eda: Cli, scripted: ScriptedService) -> None:
    memory = {"base_bytes": 270_000_000, "adapter_bytes": None, "pack_bytes": 5_300_000}
    scripted.on("PATCH", f"{ROOT}/pair", shown("loading"))
    scripted.on("GET", f"{ROOT}/pair", shown("loading"), shown("ready", loaded_pack="p@2", memory=memory))
    done = eda("deployments", "update", "pair", "--pack", "p", "--wait", url=scripted.url)
    assert (done.exit_code, done.stdout) == (0, "pair ready revision 2: p@2\n")
    assert "memory  base 270.0 MB, pack 5.3 MB" in eda("deployments", "show", "pair", url=scripted.url).stdout
    scripted.on("GET", f"{ROOT}/pair", shown("failed", reason="no such file", loaded_pack="p@1"))
    failed = eda("deployments", "update", "pair", "--pack", "p", "--wait", url=scripted.url)
    assert failed.exit_code == 1
    assert "no such file" in failed.stderr
    facts = eda("deployments", "show", "pair", url=scripted.url).stdout
    assert "reason  no such file\nnext    put that right, then `eda deployments restart pair`\nserves  p@1" in facts
    scripted.on("POST", f"{ROOT}/pair/restart", shown("loading"))
    again = eda("deployments", "restart", "pair", url=scripted.url)
    assert (again.exit_code, again.stdout) == (0, "pair loading revision 2: p@2\n")
    again = eda("deployments", "restart", "pair", "--wait", url=scripted.url)
    assert (again.exit_code, "no such file" in again.stderr) == (1, True)


def test_scaling_and_the_drift_watch_are_set_and_shown(eda: Cli, live: LiveApi) -> None:
    body = made(
        eda, live, "--replicas", "1-3", "--round-ms", "80", "--drift", "below=0.5", "--drift", "keep_prompts=20"
    )
    assert body["replicas"] == {"min": 1, "max": 3, "round_ms": 80, "running": 0}
    update = ("deployments", "update", body["name"])
    assert eda(*update, "--drift", "adapt=true", "--drift", 'redact=["[0-9]{16}"]', url=live.url).exit_code == 0
    settings = json.loads(eda("deployments", "show", body["name"], "--json", url=live.url).stdout)["drift"]["settings"]
    assert (settings["below"], settings["keep_prompts"], settings["adapt"]) == (0.5, 20, True)
    assert settings["redact"] == ["[0-9]{16}"]
    refused = eda(*update, "--drift", "keep_prompts=0", url=live.url)
    assert (refused.exit_code, "at least 16" in refused.stderr) == (2, True)
    quiet = eda("deployments", "events", body["name"], url=live.url)
    assert quiet.stdout == f"nothing has happened to {body['name']}\n"
    assert eda("deployments", "rm", body["name"], url=live.url).exit_code == 0


def test_events_and_a_fall_are_shown(eda: Cli, scripted: ScriptedService) -> None:
    event = {"id": 7, "created_at": 1, "level": "warn", "type": "acceptance_drift", "message": "fell to 1.5"}
    scripted.on("GET", f"{ROOT}/pair/events", Answer({"data": [event], "has_more": True}))
    shown_events = eda("deployments", "events", "pair", "--limit", "1", url=scripted.url)
    assert shown_events.stdout.splitlines()[1].split()[:1] == ["7"]
    assert "acceptance_drift" in shown_events.stdout
    assert "there are more" in shown_events.stderr
    drift = {"is_below": True, "acceptance_length": 1.5, "expected": 2.0, "ratio": 0.75, "settings": {}}
    scripted.on("GET", f"{ROOT}/pair", shown("ready", loaded_pack="p@2", drift=drift))
    assert "drift   acceptance 1.50 of 2.00: fallen" in eda("deployments", "show", "pair", url=scripted.url).stdout


def test_an_empty_list_says_so(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("GET", ROOT, Answer({"data": [], "has_more": False}))
    assert eda("deployments", "ls", url=scripted.url).stdout == "no deployments\n"
