"""The registry: versions, what is visible when, and drafts whose bytes changed."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eda_service.drafts.draft import Draft
from eda_service.errors import ArtifactCorruptError, BaseDraftMissingError, InputError, NotFoundError
from eda_service.storage.files import claim_file
from eda_service.storage.published import registry
from eda_service.storage.published.registry import (
    create_evaluation,
    discard,
    find_draft,
    find_evaluation,
    find_pack,
    list_drafts,
    pack_names,
    pack_versions,
    publish_pack,
    read_draft_manifest,
    read_pack_manifest,
    reserve_version,
    stage_pack,
)
from eda_service.targets.loader import Target


@pytest.fixture(autouse=True)
def no_shipped_drafts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The package's own drafts, replaced by an empty directory."""
    directory = tmp_path / "shipped"
    monkeypatch.setattr(registry, "shipped_drafts", lambda: directory)
    return directory


def put_pack(home: Path, name: str, version: int) -> Path:
    staging = stage_pack(name, version, home)
    (staging / "manifest.json").write_text("{}")
    return publish_pack(staging, name, version, home)


def test_a_registered_draft_is_found_and_verified(base_draft_dir: Path, home: Path) -> None:
    assert find_draft("tiny@1") == find_draft("tiny") == base_draft_dir
    manifest = read_draft_manifest(base_draft_dir)
    assert (manifest.name, manifest.version) == ("tiny", 1)
    assert {entry.path for entry in manifest.files} == {"config.json", "draft.safetensors"}
    assert list_drafts() == ["tiny@1"]


def test_a_fixed_evaluation_is_made_once_for_this_user_alone_and_is_no_pack(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: create_evaluation("math", "0123456789abcdef", f"{n}" * 1000), range(8)))
    assert made.count(True) == 1
    assert find_evaluation("math", "0123456789abcdef") == f"{made.index(True)}" * 1000
    (path,) = (home / "packs" / "math").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (pack_names(), pack_versions("math"), find_evaluation("math", "f" * 16)) == ([], [], None)
    put_pack(home, "math", 1)
    assert pack_versions("math") == [1]


def test_the_newest_version_is_by_number_not_by_text(
    home: Path, publish_draft: Callable[..., Path], tiny_draft: Draft, tiny_target: Target
) -> None:
    for version in (2, 10, 9):
        publish_draft(home, tiny_draft, tiny_target, version=version)
    assert find_draft("tiny").name == "10"
    assert find_draft("tiny@9").name == "9"


def test_a_shipped_number_is_the_packages_and_a_bare_name_the_homes(
    base_draft_dir: Path, no_shipped_drafts: Path, home: Path
) -> None:
    shutil.copytree(base_draft_dir, no_shipped_drafts / "tiny" / "2")
    assert find_draft("tiny@1") == find_draft("tiny") == base_draft_dir
    assert find_draft("tiny@2") == no_shipped_drafts / "tiny" / "2"
    assert list_drafts() == ["tiny@1", "tiny@2"]
    shutil.copytree(base_draft_dir, no_shipped_drafts / "tiny" / "1")  # a release that comes with that number later
    assert find_draft("tiny@1") == no_shipped_drafts / "tiny" / "1"


def test_a_missing_draft_names_those_of_the_package_alone(base_draft_dir: Path, no_shipped_drafts: Path) -> None:
    """Registered ones may be other people's."""
    shutil.copytree(base_draft_dir, no_shipped_drafts / "common" / "1")
    for reference in ("other@1", "other", "tiny@2"):
        with pytest.raises(BaseDraftMissingError, match=r"with the package come common@1; `eda drafts ls`") as caught:
            find_draft(reference)
        assert (caught.value.param, caught.value.code) == ("base_draft", "base_draft_missing")
        assert "tiny@1" not in caught.value.message


@pytest.mark.parametrize("reference", ["", "../etc", "a/b", "tiny@", "tiny@x", "tiny@-1", "@1", ".hidden", "a b"])
def test_a_reference_that_cannot_be_one_is_refused(reference: str, home: Path) -> None:
    for find in (find_draft, find_pack):
        with pytest.raises(InputError, match="is no name@version"):
            find(reference)


def test_a_bad_base_draft_reference_names_its_field(home: Path) -> None:
    """What a job's `base_draft` of "tiny@x" is answered with."""
    with pytest.raises(InputError) as caught:
        find_draft("tiny@x")
    assert caught.value.param == "base_draft"


def test_a_draft_whose_weights_changed_is_corrupt(base_draft_dir: Path) -> None:
    path = base_draft_dir / "draft.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactCorruptError, match=r"draft\.safetensors has sha256"):
        read_draft_manifest(base_draft_dir)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"schema_version": 1, "surprise": 2}'])
def test_a_manifest_that_does_not_parse_is_corrupt(base_draft_dir: Path, text: str) -> None:
    (base_draft_dir / "manifest.json").write_text(text)
    for read in (read_draft_manifest, read_pack_manifest):
        with pytest.raises(ArtifactCorruptError, match=r"manifest\.json does not parse"):
            read(base_draft_dir)


def test_a_manifest_with_an_unknown_field_is_noticed(base_draft_dir: Path) -> None:
    """A newer schema is not read as if it were this one."""
    path = base_draft_dir / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "new_field": 1}))
    with pytest.raises(ArtifactCorruptError, match="new_field"):
        read_draft_manifest(base_draft_dir)


def test_a_draft_without_manifest_is_not_there(base_draft_dir: Path) -> None:
    (base_draft_dir / "manifest.json").unlink()
    with pytest.raises(BaseDraftMissingError):
        find_draft("tiny@1")


def test_a_pack_is_invisible_until_it_is_published(home: Path) -> None:
    staging = stage_pack("math", 1)
    (staging / "manifest.json").write_text("{}")
    with pytest.raises(NotFoundError, match="its versions: none"):
        find_pack("math")
    publish_pack(staging, "math", 1)
    assert find_pack("math") == home / "packs" / "math" / "1"
    assert not staging.exists()


def test_what_a_killed_attempt_staged_is_not_left_behind(home: Path) -> None:
    (stage_pack("math", 1) / "half.safetensors").write_text("half")
    staging = stage_pack("math", 1)
    assert list(staging.iterdir()) == []
    (staging / "manifest.json").write_text("{}")
    publish_pack(staging, "math", 1)
    assert [path.name for path in (home / "packs" / "math").iterdir()] == ["1"]


def test_a_claim_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    claims = [tmp_path / "claim"] * 8
    with ThreadPoolExecutor(len(claims)) as pool:
        made = list(pool.map(claim_file, claims, [str(n) * 1000 for n in range(len(claims))]))
    assert made.count(True) == 1
    assert claims[0].read_text() == str(made.index(True)) * 1000
    assert list(tmp_path.iterdir()) == [claims[0]]


def test_a_discarded_pack_leaves_nothing_to_find(home: Path) -> None:
    staging = stage_pack("math", 1)
    (staging / "manifest.json").write_text("{}")
    discard(staging)
    with pytest.raises(NotFoundError):
        find_pack("math@1")
    assert list((home / "packs" / "math").iterdir()) == []


def test_pack_versions(home: Path) -> None:
    for version in (1, 2, 10):
        put_pack(home, "math", version)
    assert find_pack("math").name == "10"
    assert find_pack("math@2").name == "2"
    with pytest.raises(NotFoundError, match=r"no pack 'math@3'; its versions: \[1, 2, 10\]") as caught:
        find_pack("math@3")
    assert caught.value.param == "pack"


def test_a_job_keeps_its_version_and_no_two_share_one(home: Path) -> None:
    assert [reserve_version("math", job) for job in ("a", "b", "a", "c", "b")] == [1, 2, 1, 3, 2]
    assert reserve_version("other", "a") == 1
    with pytest.raises(NotFoundError):
        find_pack("math")  # reserved is not published
