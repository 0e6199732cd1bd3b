"""Packs and base drafts on storage: published on one machine, complete on every other, or not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pack_files import put_pack
from stored import machine

from eda_service.errors import ArtifactCorruptError, BaseDraftMissingError, NotFoundError
from eda_service.storage.files import file_entry, write_json
from eda_service.storage.objects import ObjectStore
from eda_service.storage.published.packs import read_pack
from eda_service.storage.published.registry import (
    create_evaluation,
    delete_draft,
    draft_job_id,
    draft_versions,
    find_draft,
    find_draft_file,
    find_evaluation,
    find_pack,
    has_draft,
    list_drafts,
    pack_job_id,
    pack_names,
    pack_versions,
    publish_draft,
    read_draft_manifest,
    read_pack_manifest,
    reserve_draft,
    reserve_version,
    stage_draft,
    stage_pack,
)


def test_a_pack_is_found_on_every_machine(storage: ObjectStore, home: Path) -> None:
    reference = put_pack(home, "math", 2.0, job_id="job-a")
    assert not (home / "packs").exists()
    with machine(home / "second") as second:
        assert (pack_names(), pack_versions("math"), pack_job_id("math", 1)) == (["math"], [1], "job-a")
        version = read_pack("math", 1)
        assert version.manifest is not None
        assert not (second / "cache").exists()  # what a pack says of itself costs no download
        directory = find_pack(reference)
        assert directory.is_relative_to(second / "cache")
        assert (directory.parent.name, directory.name) == ("math", "1")
        assert read_pack_manifest(directory) == version.manifest
        before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
        assert find_pack("math") == directory
        assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    with pytest.raises(NotFoundError, match=r"its versions: \[1\]"):
        find_pack("math@2")


def test_numbers_are_reserved_once_among_machines(storage: ObjectStore, home: Path) -> None:
    assert reserve_version("math", "job-a") == 1
    with machine(home / "second"):
        assert reserve_version("math", "job-b") == 2
        assert reserve_version("math", "job-a") == 1
        assert pack_versions("math") == []


def test_a_fixed_evaluation_is_made_once_among_machines_and_is_no_pack(storage: ObjectStore, home: Path) -> None:
    assert find_evaluation("math", "0123456789abcdef") is None
    assert create_evaluation("math", "0123456789abcdef", "first")
    with machine(home / "second"):
        assert not create_evaluation("math", "0123456789abcdef", "second")
        assert find_evaluation("math", "0123456789abcdef") == "first"
        assert (pack_names(), pack_versions("math")) == ([], [])
        assert reserve_version("math", "job-a") == 1


def test_files_without_a_manifest_are_no_pack(storage: ObjectStore, home: Path) -> None:
    staging = stage_pack("math", 1)
    (staging / "pack.safetensors").write_bytes(b"weights")
    entry = file_entry(staging, staging / "pack.safetensors")
    storage.put_file(f"packs/math/files/{entry.sha256}", staging / "pack.safetensors")
    assert pack_names() == []
    with pytest.raises(NotFoundError):
        find_pack("math")


def test_a_manifest_whose_file_is_gone_is_said_so(storage: ObjectStore, home: Path) -> None:
    put_pack(home, "math", 2.0, job_id="job-a")
    manifest = read_pack("math", 1).manifest
    assert manifest is not None
    shutil.rmtree(home / "cache")
    storage.delete([f"packs/math/files/{entry.sha256}" for entry in manifest.files])
    with pytest.raises(ArtifactCorruptError, match="is not there"):
        find_pack("math@1")
    assert list((home / "cache").iterdir()) == []


def test_a_base_draft_is_registered_for_all(storage: ObjectStore, home: Path, base_draft_dir: Path) -> None:
    assert not has_draft("tiny", 1)  # the directory under home does not count beside storage
    staging = stage_draft("tiny", 1)
    shutil.copytree(base_draft_dir, staging, dirs_exist_ok=True)
    manifest = read_draft_manifest(base_draft_dir)
    write_json(staging / "manifest.json", manifest.model_dump(mode="json"))
    publish_draft(staging, "tiny", 1)
    assert has_draft("tiny", 1)
    with machine(home / "second") as second:
        alone = find_draft_file("tiny@1", "config.json")
        assert alone.read_bytes() == (base_draft_dir / "config.json").read_bytes()
        assert not list(second.rglob("*.safetensors"))  # a draft's shape costs no download of its weights
        assert read_draft_manifest(find_draft("tiny@1")) == manifest
        assert find_draft_file("tiny@1", "config.json").parent == find_draft("tiny@1")
        assert "tiny@1" in list_drafts()
        assert find_draft("smollm2-135m@3").is_dir()


def test_drafts_are_numbered_once_and_removed_for_all(storage: ObjectStore, home: Path, base_draft_dir: Path) -> None:
    assert reserve_draft("tiny", "import_a") == 1
    staging = stage_draft("tiny", 1)
    shutil.copytree(base_draft_dir, staging, dirs_exist_ok=True)
    publish_draft(staging, "tiny", 1)
    with machine(home / "second"):
        assert draft_versions("tiny") == [1]
        assert draft_job_id("tiny", 1) == "import_a"
        assert [reserve_draft("tiny", job) for job in ("import_b", "import_a", "import_b")] == [2, 1, 2]
        find_draft("tiny@1")
        delete_draft("tiny", 1)
        assert draft_versions("tiny") == []
    assert draft_versions("tiny") == []
    with pytest.raises(BaseDraftMissingError):
        find_draft("tiny@1")
    delete_draft("tiny", 1)  # what is gone is gone
    assert reserve_draft("tiny", "import_c") == 3
    assert reserve_draft("smollm2-135m", "import_c") == 4
