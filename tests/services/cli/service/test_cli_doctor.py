"""`eda doctor` against the real service, scripted ones, and machines that lack something."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from live_api import LiveApi, live_api
from scripted_service import Answer, ScriptedService, refusal

from eda_service.cli.service import checks
from eda_service.cli.service.checks import CheckState
from eda_service.raycluster.processes import free_ports

HEALTH = {"status": "ok", "version": "0.1.0", "ray_reachable": True, "dispatcher_lag_s": 0.4}
NAMES = [
    "python",
    "packages",
    "home",
    "defaults",
    "disk",
    "ray token",
    "gpu",
    "shipped model",
    "model hub",
    "service",
    "ray",
    "api key",
]


@pytest.fixture(autouse=True)
def closed_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the real hub."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def look(eda: Cli, *arguments: str, **env: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and checks by name."""
    ports = free_ports(2)
    done = eda("doctor", "--json", "--port", str(ports[0]), "--serve-port", str(ports[1]), *arguments, env=env)
    found = json.loads(done.stdout)
    assert found["ok"] == (done.exit_code == 0)
    return done.exit_code, {check["name"]: check for check in found["checks"]}


def test_a_fresh_machine_is_told_what_to_do_first(eda: Cli) -> None:
    code, found = look(eda)
    assert [name for name in found if not name.startswith("port")] == NAMES
    assert code == 0
    assert (found["service"]["state"], found["service"]["next_step"]) == ("warn", "eda up")
    assert found["api key"]["state"] == "warn"
    assert all(bool(check["next_step"]) == (check["state"] != "ok") for check in found.values())


def test_the_text_says_the_same(eda: Cli) -> None:
    done = eda("doctor", "--port", str(free_ports(1)[0]), "--serve-port", str(free_ports(1)[0]))
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if line[:1] != " "].count("ok") >= 5
    service = next(place for place, line in enumerate(lines) if "service" in line and line.startswith("warn"))
    assert lines[service + 1].strip() == "eda up"


def test_a_service_without_its_cluster_fails(eda: Cli, live: LiveApi) -> None:
    code, found = look(eda, "--url", live.url)
    assert code == 1
    assert (found["service"]["state"], found["ray"]["state"], found["api key"]["state"]) == ("warn", "fail", "ok")
    assert "ray_head.log" in found["ray"]["next_step"]


def test_keys_are_tried(eda: Cli, tmp_path: Path) -> None:
    with live_api(tmp_path) as live:
        text = live.store.keys.create("ada", "test", ["jobs:read"])[1]
        narrow = live.store.keys.create("ada", "test", ["infer"])[1]
        for key, state in (("", "fail"), ("eda_0_0", "fail"), (text, "ok"), (narrow, "ok")):
            _, found = look(eda, "--url", live.url, EDA_API_KEY=key)
            assert found["api key"]["state"] == state, found["api key"]
            assert not key or key not in json.dumps(found)


def test_a_good_service_is_well(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("GET", "/health", Answer(HEALTH))
    scripted.on("GET", "/v1/adaptations", Answer({"data": [], "has_more": False}))
    code, found = look(eda, "--url", scripted.url)
    assert code == 0
    assert [found[name]["state"] for name in ("service", "ray", "api key")] == ["ok", "ok", "ok"]


def test_one_that_tells_a_stranger_nothing_is_not_called_ill(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("GET", "/health", Answer({"status": "ok"}))
    scripted.on("GET", "/v1/adaptations", refusal(401, "invalid_api_key"))
    _, found = look(eda, "--url", scripted.url)
    assert [found[name]["state"] for name in ("service", "ray", "api key")] == ["ok", "warn", "fail"]
    assert "EDA_API_KEY" in found["ray"]["next_step"]


def test_one_that_answers_with_errors_or_not_at_all_fails(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("GET", "/health", refusal(500, "internal"))
    for url in (scripted.url, "http://127.0.0.1:9"):
        code, found = look(eda, "--url", url)
        assert (code, found["service"]["state"]) == (1, "fail")
        assert "api.log" in found["service"]["next_step"]


def test_a_taken_port_fails_unless_it_is_ours(eda: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, found = look(eda, "--port", str(port))
        assert (code, found[f"port {port}"]["state"]) == (1, "fail")
        assert checks.check_port(port, is_ours=True).state is CheckState.OK
    assert checks.check_port(port, is_ours=False).state is CheckState.OK


@pytest.mark.parametrize(("free", "state"), [(999_999_999, "fail"), (1_000_000_000, "warn"), (10_000_000_000, "ok")])
def test_disk(free: int, state: str, tmp_path: Path) -> None:
    assert checks.check_disk(free, tmp_path).state == state


@pytest.mark.parametrize(("version", "state"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 12), "ok"), ((3, 13), "fail")])
def test_python(version: tuple[int, int], state: str) -> None:
    assert checks.check_python(version).state == state


@pytest.mark.parametrize(
    ("wanted", "state"),
    [
        ("httpx>=0.1", "ok"),
        ("httpx>=999", "warn"),
        ("no-such-package-anywhere", "fail"),
        ("no-such-package-anywhere; extra == 'dev'", "ok"),
    ],
)
def test_packages(wanted: str, state: str) -> None:
    assert checks.check_packages([wanted]).state == state


def test_a_token_that_others_can_read_fails(tmp_path: Path) -> None:
    path = tmp_path / "auth_token"
    assert checks.check_token(path).state is CheckState.OK
    path.write_text("x")
    for mode, state in ((0o644, CheckState.FAIL), (0o600, CheckState.OK)):
        path.chmod(mode)
        assert checks.check_token(path).state is state


def test_a_home_that_cannot_be_written_fails(tmp_path: Path) -> None:
    assert checks.check_home(tmp_path / "new" / "home").state is CheckState.OK
    (tmp_path / "file").write_text("x")
    assert checks.check_home(tmp_path / "file" / "home").state is CheckState.FAIL


def test_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scripted: ScriptedService) -> None:
    monkeypatch.setenv("EDA_MODEL_CACHE", str(tmp_path))
    missing = checks.check_embedded_model()
    assert (missing.state, missing.next_step) == (CheckState.WARN, "eda models fetch smollm2-135m-instruct")
    (tmp_path / "models" / "smollm2-135m-instruct").mkdir(parents=True)
    (tmp_path / "models" / "smollm2-135m-instruct" / "SOURCE.json").write_text("{}")
    assert checks.check_embedded_model().state is CheckState.OK
    assert checks.check_hub("http://127.0.0.1:9").state is CheckState.WARN
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in checks.check_hub("http://127.0.0.1:9").found


def test_a_gpu_that_torch_does_not_use_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        assert checks.check_gpu().state is CheckState.OK
        return
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: Some Card'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found: Any = checks.check_gpu()
    assert found.state is CheckState.WARN
    assert "Some Card" in found.found
    monkeypatch.setenv("PATH", "")
    assert checks.check_gpu().state is CheckState.OK
