"""Asking the model hub whether it has something: a server on loopback answers in its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from scripted_hub import LLAMA, ScriptedHub, refused, scripted_hub
from scripted_service import Answer

from eda_service.targets.files.hub import HubAwayError, ModelHub, cached_model


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedHub]:
    with scripted_hub(monkeypatch, tmp_path) as opened:
        yield opened


def test_what_is_there_comes_with_its_files_and_config(hub: ScriptedHub, clock: Clock) -> None:
    hub.has("org/model", "config.json", "model.safetensors", "README.md")
    found = ModelHub(clock).look_up("model", "org/model")
    assert found.problem is None
    assert found.files == ("config.json", "model.safetensors", "README.md")
    assert found.config == LLAMA


def test_answers_are_remembered_those_of_absence_for_a_shorter_time(hub: ScriptedHub, clock: Clock) -> None:
    asking = ModelHub(clock)
    hub.has("org/model")
    for name in ("org/model", "org/model", "org/none", "org/none"):
        asking.look_up("model", name)
    assert hub.num_asked() == 3  # a list, a config, and one absence
    clock.now = 120.0
    hub.has("org/none")  # somebody has uploaded it
    assert asking.look_up("model", "org/none").problem is None
    asking.look_up("model", "org/model")
    assert hub.num_asked() == 5
    clock.now = 900.0
    asking.look_up("model", "org/model")
    assert hub.num_asked() == 7


def test_absence_a_missing_branch_and_a_closed_door_are_told_apart(hub: ScriptedHub, clock: Clock) -> None:
    asking = ModelHub(clock)
    hub.fails("org/none", refused(401, "RepoNotFound"))
    hub.lacks_revision("org/model", "v9")
    hub.has("org/closed", gated=True)
    assert "the model hub has no 'org/none'" in (asking.look_up("model", "org/none").problem or "")
    assert "no revision 'v9'" in (asking.look_up("model", "org/model", "v9").problem or "")
    assert "by permission" in (asking.look_up("model", "org/closed").problem or "")
    assert "the dataset hub has no 'org/rows'" in (asking.look_up("dataset", "org/rows").problem or "")
    hub.has("org/rows", "train.parquet", kind="datasets")
    clock.now = 120.0
    assert asking.look_up("dataset", "org/rows").problem is None


@pytest.mark.parametrize("answer", [Answer(status=503), Answer(status=429), Answer(drop=True), Answer(body=b"<html>")])
def test_a_hub_that_cannot_answer_is_left_alone_for_a_while(hub: ScriptedHub, clock: Clock, answer: Answer) -> None:
    asking = ModelHub(clock)
    hub.fails("org/model", answer)
    for name in ("org/model", "org/model", "org/other"):
        with pytest.raises(HubAwayError, match="answer"):
            asking.look_up("model", name)
    assert hub.num_asked() == 1
    hub.has("org/model")
    clock.now = 31.0
    assert asking.look_up("model", "org/model").problem is None


def test_offline_nobody_is_asked(hub: ScriptedHub, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubAwayError, match="HF_HUB_OFFLINE"):
        ModelHub(clock).look_up("model", "org/model")
    assert hub.num_asked() == 0


def test_a_config_that_is_none_is_left_to_the_job(hub: ScriptedHub, clock: Clock) -> None:
    hub.has("org/model", config={"a": "x" * (2 << 20)})
    assert ModelHub(clock).look_up("model", "org/model").config is None


def test_what_the_cache_holds_whole_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert cached_model("org/model") is None
    snapshot = put_in_cache(tmp_path, "org/model")
    assert cached_model("org/model") is None  # a config alone is what an earlier look may have left
    (snapshot / "model.safetensors").write_bytes(b"x")
    assert cached_model("org/model") == snapshot
    assert cached_model("org/model", "v9") is None


def put_in_cache(cache: Path, name: str) -> Path:
    """A snapshot as huggingface_hub lays it out; returns its directory."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(snapshot.name)
    (snapshot / "config.json").write_text("{}")
    return snapshot
