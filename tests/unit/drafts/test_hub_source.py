"""A draft on the model hub: sizes are looked at before anything is fetched. The hub is a server of the test's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from scripted_hub import ScriptedHub, scripted_hub

from eda_service.drafts.source import find_source
from eda_service.errors import DraftIncompatibleError, DraftSourceMissingError, InsufficientStorageError

SAFE = {"config.json": b"{}", "model.safetensors": b"w" * 1000}
BOTH = {**SAFE, "pytorch_model.bin": b"p" * 500, "README.md": b"#"}
PICKLED = {"config.json": b"{}", "pytorch_model.bin": b"p" * 500}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedHub]:
    with scripted_hub(monkeypatch, tmp_path / "cache") as opened:
        yield opened


def leave(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    """All disks have so much room from now on."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))


@pytest.mark.parametrize(
    ("files", "fetched"),
    [(BOTH, {"config.json", "model.safetensors"}), (PICKLED, {"config.json", "pytorch_model.bin"})],
    ids=["safetensors", "pickled alone"],
)
def test_what_fits_is_fetched(hub: ScriptedHub, tmp_path: Path, files: dict[str, bytes], fetched: set[str]) -> None:
    hub.serves("org/draft", files)
    found = find_source("org/draft", work_dir=tmp_path)
    assert {path.name: path.read_bytes() for path in found.directory.iterdir()} == {
        name: files[name] for name in fetched
    }
    assert hub.fetched() == fetched
    assert found.label == f"org/draft@{found.directory.name}"


@pytest.mark.parametrize(
    ("free_bytes", "has_room"), [(3_002, True), (3_001, False), (0, False)], ids=["just enough", "one short", "none"]
)
def test_what_finds_no_room_is_not_fetched(
    hub: ScriptedHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, has_room: bool
) -> None:
    # 1,000 bytes of weights fetched and twice staged, and the config of 2: cache and work directory are on one disk
    hub.serves("org/draft", BOTH)
    leave(monkeypatch, free_bytes)
    if has_room:
        find_source("org/draft", work_dir=tmp_path)
        return
    with pytest.raises(InsufficientStorageError, match=r"org/draft has 0\.00 GB of weights"):
        find_source("org/draft", work_dir=tmp_path)
    assert hub.fetched() == set()


def test_what_is_in_the_cache_needs_room_for_staging_alone(
    hub: ScriptedHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.serves("org/draft", SAFE)
    find_source("org/draft")
    leave(monkeypatch, 2_000)
    find_source("org/draft", work_dir=tmp_path)
    leave(monkeypatch, 1_999)
    with pytest.raises(InsufficientStorageError):
        find_source("org/draft", work_dir=tmp_path)


def test_pickled_weights_above_the_limit_are_not_fetched(hub: ScriptedHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.serves("org/draft", PICKLED, claims={"pytorch_model.bin": (16 << 30) + 1})
    leave(monkeypatch, 1 << 50)
    with pytest.raises(DraftIncompatibleError, match=r"pytorch_model.bin have 17179869185 bytes, the limit"):
        find_source("org/draft")
    assert hub.fetched() == set()


def test_a_hub_that_lists_nothing_leaves_it_to_the_cache(
    hub: ScriptedHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.serves("org/draft", SAFE)
    there = find_source("org/draft").directory
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_source("org/draft", work_dir=tmp_path).directory == there
    with pytest.raises(DraftSourceMissingError, match="not in the hub's cache"):
        find_source("org/other")
