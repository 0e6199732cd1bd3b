"""Directories named by path, where a job or a replica reads them: no way out of the roots, no exchange unnoticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eda_service.config.job import TargetSpec
from eda_service.drafts.source import find_source
from eda_service.errors import ArtifactCorruptError, EdaError, InputError
from eda_service.targets import loader
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.loader import load_target


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service's root, as a job's environment names it; the home lies beneath it."""
    path = tmp_path / "root"
    (path / "home").mkdir(parents=True)
    monkeypatch.setenv("EDA_HOME", str(path / "home"))
    monkeypatch.setenv("EDA_LOCAL_ROOTS", str(path))
    return path


@pytest.fixture
def model(root: Path, new_target_dir: Callable[..., Path]) -> Path:
    return new_target_dir(root / "model", "llama")


def spec_of(path: Path) -> TargetSpec:
    return TargetSpec(model=str(path), dtype="float32")


def test_a_directory_beneath_a_root_is_read(model: Path) -> None:
    assert resolve_target(spec_of(model)).model_dir == model


@pytest.mark.parametrize("where", ["outside", "root/home"])
@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_was_exchanged_for_a_link_out_after_submit_is_refused(
    root: Path, model: Path, where: str, what: str
) -> None:
    there = root.parent / where / "model"
    there.parent.mkdir(exist_ok=True)
    moved = model if what == "directory" else model / "model.safetensors"
    os.rename(moved, there)
    moved.symlink_to(there)
    with pytest.raises(InputError, match="leads out of the allowed roots") as caught:
        resolve_target(spec_of(model))
    assert caught.value.param == "target.model"


@pytest.mark.parametrize("where", ["outside", "root/home"])
@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_draft_that_was_exchanged_for_a_link_out_is_not_imported(root: Path, where: str, what: str) -> None:
    draft, there = root / "draft", root.parent / where / "draft"
    draft.mkdir()
    there.parent.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (draft / name).write_text("{}")
    assert find_source(str(draft)).directory == draft
    moved = draft if what == "directory" else draft / "model.safetensors"
    os.rename(moved, there)
    moved.symlink_to(there)
    with pytest.raises(InputError, match="leads out of the allowed roots") as caught:
        find_source(str(draft))
    assert caught.value.param == "source"


def test_without_roots_a_directory_is_the_operators_own(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.rename(model, root.parent / "elsewhere")
    model.symlink_to(root.parent / "elsewhere")
    assert resolve_target(spec_of(root.parent / "elsewhere")).model_dir == root.parent / "elsewhere"
    monkeypatch.delenv("EDA_LOCAL_ROOTS")
    assert resolve_target(spec_of(model)).model_dir == root.parent / "elsewhere"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "added.json"])
def test_an_exchange_while_the_target_is_loaded_is_noticed(
    model: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loader._load_model

    def exchanged(*arguments: object) -> object:
        found = load(*arguments)  # type: ignore[arg-type]
        path = model / name
        data = path.read_bytes() if path.exists() else b"{}"
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        return found

    monkeypatch.setattr(loader, "_load_model", exchanged)
    with pytest.raises(ArtifactCorruptError, match=f"was changed while it was read .*{name}"):
        load_target(spec_of(model))


def test_a_directory_that_is_exchanged_and_restored_is_noticed(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loader._load_model

    def exchanged(*arguments: object) -> object:
        os.rename(model, root / "aside")
        model.symlink_to(root / "aside")
        found = load(*arguments)  # type: ignore[arg-type]
        model.unlink()
        os.rename(root / "aside", model)
        return found

    monkeypatch.setattr(loader, "_load_model", exchanged)
    with pytest.raises(ArtifactCorruptError, match="was changed while it was read"):
        load_target(spec_of(model))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "/" + "x" * 300, "./itself", "~nobody-here/x", "/\0", "./fifo"])
def test_every_odd_path_is_an_error_of_ours(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(EdaError):
        resolve_target(TargetSpec(model=name))
