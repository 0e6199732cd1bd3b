"""`eda packs push` and `pull`: a pack goes to a directory or a hub and comes back; what others wrote is not believed.

The hub is a server of the test's on loopback.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_packs import publish_adapted
from pack_files import fingerprint, put_pack
from safetensors.torch import load_file, save_file
from scripted_hub import ScriptedHub, scripted_hub

from eda_service.config.job import TrainConfig
from eda_service.errors import BaseDraftMissingError, ConflictError, InputError, UnsafeCheckpointError
from eda_service.export.repositories import pack_push
from eda_service.export.repositories.pack_pull import PulledPackError, draft_sha256, pull
from eda_service.export.repositories.pack_push import HubRefusedError, prepare, push
from eda_service.export.repositories.pack_source import find_source
from eda_service.storage.files import sha256_file
from eda_service.storage.published import registry
from eda_service.storage.published.gate import champion
from eda_service.storage.published.packs import read_pack
from eda_service.targets.loader import Target

FILES = {"README.md", "manifest.json", "pack.json", "pack.safetensors"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedHub]:
    with scripted_hub(monkeypatch, tmp_path / "cache") as opened:
        yield opened


@pytest.fixture
def pack(home: Path, base_draft_dir: Path, tiny_target: Target) -> str:
    """Made here, of a file of prompts and beside another pack."""
    draft = draft_sha256(registry.find_draft_manifest("tiny@1", home))
    facts: dict[str, Any] = {
        "job_id": "adapt_1",
        "base_draft_sha256": draft,
        "speedup": 1.5,
        "rivals": {"secret@7": 1.9},
    }
    vocab_W = torch.arange(0, 112, 2)
    source = {"source": "/srv/ann/private/questions.jsonl", "num_prompts": 64}
    return publish_adapted(
        home, base_draft_dir, tiny_target, TrainConfig(), vocab_W=vocab_W, name="math", dataset=source, **facts
    )


@pytest.fixture
def pushed(home: Path, pack: str, tmp_path: Path) -> Path:
    """Its repository as a directory."""
    place = tmp_path / "pushed"
    push(prepare(pack, str(place), licence="mit", home=home))
    return place


def front(card: str) -> list[str]:
    return card.split("---\n")[1].splitlines()


def test_a_directory_holds_the_pack_and_its_card(home: Path, pack: str, pushed: Path) -> None:
    assert {path.name for path in pushed.iterdir()} == FILES
    card = (pushed / "README.md").read_text()
    assert front(card)[:2] == ["license: mit", "library_name: eda-service"]
    assert "| 0 | 1.40 | 2.00 | 1.50x |" in card
    assert "`questions.jsonl`, which is not published with it" in card
    assert f"eda packs pull {pushed}" in card
    own = registry.find_pack(pack, home)
    assert sha256_file(pushed / "pack.safetensors") == sha256_file(own / "pack.safetensors")


def test_nothing_of_this_machine_goes_along(home: Path, tiny_target: Target, pushed: Path) -> None:
    written = (pushed / "manifest.json").read_text() + (pushed / "README.md").read_text().replace(str(pushed), "")
    for private in ("/srv/ann", "ann/private", "secret@7", str(Path(tiny_target.spec.model).parent), str(home)):
        assert private not in written, private


def test_what_the_hub_knows_is_named(home: Path) -> None:
    target = fingerprint(model="org/base", adapter="org/lora")
    put_pack(home, "hubs", 2.0, target=target, dataset={"source": "org/prompts"})
    made = prepare("hubs", "me/hubs", licence="apache-2.0", home=home)
    assert front(made.card)[2:6] == [
        "base_model: org/lora",
        "base_model_relation: adapter",
        "datasets:",
        "- org/prompts",
    ]
    assert "eda packs pull me/hubs\neda packs deploy hubs\n" in made.card
    named = prepare("hubs", "me/hubs", licence="apache-2.0", base_model="me/merged", home=home)
    assert "base_model: me/merged" in front(named.card)


@pytest.mark.parametrize(
    ("to", "options", "said"),
    [
        ("me/pack", {}, "give --license"),
        ("me/pack", {"licence": "MIT\nx: y"}, "is no id of a licence"),
        ("pack", {"licence": "mit"}, "write owner/name for one on the hub"),
        ("me/pack", {"licence": "mit", "base_model": "/x"}, "is no id on the hub"),
    ],
)
def test_what_cannot_be_pushed(home: Path, pack: str, to: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        prepare(pack, to, home=home, **options)


def test_a_directory_that_is_there_is_not_touched(home: Path, pack: str, pushed: Path) -> None:
    with pytest.raises(ConflictError, match="exists already"):
        push(prepare(pack, str(pushed), licence="mit", home=home))


def test_over_the_hub_and_back(hub: ScriptedHub, home: Path, pack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    files = hub.takes("me/math")
    place = push(prepare(pack, "me/math", licence="mit", home=home))
    assert set(files) == FILES
    (made,) = hub.asked("POST", "/api/repos/create")
    assert (made.body["name"], made.body["visibility"]) == ("math", "private")
    hub.serves("me/math", {**files, "evil.py": b"x"})
    back = pull(find_source("me/math"), home=home)
    assert hub.fetched() == FILES - {"README.md"}
    assert (back.pack, back.source, back.base_draft) == ("math@2", place, "tiny@1")
    assert (back.rivals, back.fixed) == ((), None)
    first, second = (load_file(registry.find_pack(f"math@{n}", home) / "pack.safetensors") for n in (1, 2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    versions = [read_pack("math", number, home) for number in (1, 2)]
    assert champion(versions) == versions[0]
    assert registry.reserve_version("math", "adapt_x", home) == 3
    with pytest.raises(HubRefusedError, match="the hub did not take me/other"):
        push(prepare(pack, "me/other", licence="mit", home=home))
    with pytest.raises(InputError, match="the model hub has no 'me/none'"):
        find_source("me/none")


def test_a_draft_of_another_name_is_found_by_its_hash(home: Path, pushed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(BaseDraftMissingError, match=r"beside the draft tiny@1 .*`eda drafts import`"):
        pull(find_source(str(pushed)), home=other)
    assert not any(other.rglob("pack*"))
    shutil.copytree(home / "drafts" / "tiny", other / "drafts" / "theirs")
    back = pull(find_source(str(pushed)), name="renamed", home=other)
    assert (back.pack, back.base_draft, back.config["base_draft"]) == ("renamed@1", "theirs@1", "theirs@1")


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """A repository whose manifest says something else."""

    def apply(directory: Path) -> None:
        written = json.loads((directory / "manifest.json").read_text())
        change(written)
        (directory / "manifest.json").write_text(json.dumps(written))

    return apply


def rewritten(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """A repository with other tensors, whose manifest has their hash and size."""

    def apply(directory: Path) -> None:
        path = directory / "pack.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        edited(lambda manifest: _signed(manifest, path))(directory)

    return apply


def _signed(manifest: dict[str, Any], path: Path) -> None:
    for entry in manifest["files"]:
        if entry["path"] == path.name:
            entry |= {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}


def _flipped(directory: Path) -> None:
    path = directory / "pack.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _pickled(directory: Path) -> None:
    (directory / "pack.safetensors").rename(directory / "pack.bin")


def _linked(directory: Path) -> None:
    (directory / "pack.json").rename(directory.parent / "elsewhere.json")
    (directory / "pack.json").symlink_to(directory.parent / "elsewhere.json")


def _garbage(directory: Path) -> None:
    path = directory / "pack.safetensors"
    path.write_bytes(b"\x80\x04pickle" * 100)
    edited(lambda manifest: _signed(manifest, path))(directory)


def _first_tensor(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in tensors if tensors[name].is_floating_point())


def _lost(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[_first_tensor(tensors)]


def _infinite(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first_tensor(tensors)].fill_(float("inf"))


def _nested(directory: Path) -> None:
    (directory / "manifest.json").write_text("[" * 5000 + "]" * 5000)


def _long(directory: Path) -> None:
    (directory / "manifest.json").write_text(" " * (1 << 20) + "{}")


def _vocabulary(tensors: dict[str, torch.Tensor]) -> None:
    tensors["draft_vocab"][-1] = 112  # of a target that has 112 tokens, from 0 on


HOSTILE: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "a flipped bit": (_flipped, PulledPackError, "its manifest says"),
    "pickled": (_pickled, UnsafeCheckpointError, "which can run code when read"),
    "a link": (_linked, PulledPackError, "it has no pack.json"),
    "no safetensors": (_garbage, UnsafeCheckpointError, "no sound safetensors"),
    "another file": (
        edited(lambda m: m["files"].append({"path": "x.py", "sha256": "0" * 64, "size_bytes": 1})),
        PulledPackError,
        "it names other files",
    ),
    "a path out": (edited(lambda m: m["files"][0].update(path="../../x")), PulledPackError, "inside its artifact"),
    "a name that is a path": (edited(lambda m: m.update(pack="../x@1")), PulledPackError, "no name@version"),
    "another size": (edited(lambda m: m["files"][1].update(size_bytes=7)), PulledPackError, "should have 7"),
    "escape codes": (edited(lambda m: m.update(measured_on="\x1b]0;x\x07")), PulledPackError, "cannot be printed"),
    "no number": (
        edited(lambda m: m["metrics"].update({"adapted_draft.acceptance_length.t0": float("nan")})),
        PulledPackError,
        "not finite",
    ),
    "a field too many": (edited(lambda m: m.update(run="x")), PulledPackError, "Extra inputs"),
    "another schema": (edited(lambda m: m.update(schema_version=9)), PulledPackError, "schema_version is 9"),
    "nested": (_nested, PulledPackError, "nested"),
    "too long": (_long, PulledPackError, "at most"),
    "a tensor less": (rewritten(_lost), PulledPackError, "missing tensors"),
    "values": (rewritten(_infinite), PulledPackError, "finite"),
    "a vocabulary": (rewritten(_vocabulary), PulledPackError, "that a vocabulary of 112 does not have"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_repository_leaves_nothing(home: Path, pushed: Path, name: str) -> None:
    spoil, kind, said = HOSTILE[name]
    spoil(pushed)
    before = sorted(os.listdir(home))
    with pytest.raises(kind, match=said):
        pull(find_source(str(pushed)), home=home)
    assert registry.pack_versions("math", home) == [1]
    assert sorted(os.listdir(home)) == before
    assert {path.name for path in (home / "packs" / "math").iterdir()} == {".1.job", "1"}


def test_a_hub_that_sends_more_than_it_said(hub: ScriptedHub, home: Path, pushed: Path) -> None:
    files = {path.name: path.read_bytes() for path in pushed.iterdir()}
    for claims, said in (
        ({"manifest.json": len(files["manifest.json"]) - 1}, "another size than"),
        ({"pack.safetensors": 9 << 30}, "at most"),
    ):
        hub.serves("me/math", files, claims=claims)
        with pytest.raises(PulledPackError, match=said):
            pull(find_source("me/math"), home=home)
    assert registry.pack_versions("math", home) == [1]


def test_a_pull_that_is_killed_at_its_end_registers_nothing(
    home: Path, pushed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "publish_pack", killed)
    with pytest.raises(KeyboardInterrupt):
        pull(find_source(str(pushed)), home=home)
    assert registry.pack_versions("math", home) == [1]
    monkeypatch.undo()
    assert pull(find_source(str(pushed)), home=home).pack == "math@3"  # its number is not given again


def test_only_three_files_are_looked_for(pushed: Path) -> None:
    (pushed / "README.md").unlink()
    assert set(find_source(str(pushed)).sizes) == FILES - {"README.md"}
    assert pack_push.is_directory("./x")
    assert not pack_push.is_directory("me/x")
