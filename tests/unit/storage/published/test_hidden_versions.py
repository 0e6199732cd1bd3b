"""A version that is taken away and put back, or removed for good, wherever it lies."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from eda_service.errors import NotFoundError
from eda_service.storage.objects import DirectoryObjects
from eda_service.storage.published.version_store import DirectoryVersionStore, ObjectVersionStore, VersionStore


@pytest.fixture(params=["directory", "stored"])
def version_store(request: pytest.FixtureRequest, tmp_path: Path) -> VersionStore:
    """A store with `tiny@1`."""
    if request.param == "directory":
        made: VersionStore = DirectoryVersionStore(tmp_path, "drafts")
    else:
        made = ObjectVersionStore(DirectoryObjects(tmp_path / "storage"), "drafts", tmp_path / "cache")
    staging = made.staging("tiny", 1)
    (staging / "manifest.json").write_text('{"files": []}', encoding="utf-8")
    made.publish(staging, "tiny", 1)
    assert made.all() == [("tiny", 1)]
    return made


def test_what_is_put_back_is_as_it_was(version_store: VersionStore) -> None:
    hidden = version_store.hide("tiny", 1)
    assert (version_store.versions("tiny"), version_store.names(), version_store.all()) == ([], [], [])
    hidden.restore()
    assert version_store.versions("tiny") == [1]
    assert version_store.manifest("tiny", 1) == '{"files": []}'


def test_what_is_removed_cannot_be_hidden_again(version_store: VersionStore) -> None:
    version_store.hide("tiny", 1).remove()
    assert version_store.all() == []
    again = version_store.hide("tiny", 1)
    again.remove()
    again.restore()
    assert version_store.all() == []


def test_of_two_who_hide_the_same_the_first_decides(version_store: VersionStore) -> None:
    first, second = version_store.hide("tiny", 1), version_store.hide("tiny", 1)
    second.remove()
    first.restore()
    assert version_store.versions("tiny") == [1]


def test_a_manifest_that_goes_after_it_was_listed_is_not_found(tmp_path: Path) -> None:
    version_store = DirectoryVersionStore(tmp_path, "drafts")
    with pytest.raises(NotFoundError, match=r"manifest.json is not there"):
        version_store.manifest("tiny", 1)


def test_what_a_killed_process_left_is_removed_and_what_another_has_just_hidden_is_not(tmp_path: Path) -> None:
    version_store, beside = DirectoryVersionStore(tmp_path, "drafts"), tmp_path / "drafts" / "tiny"
    for name in ("1", "2", ".hidden-3", ".deleted-4"):
        (beside / name).mkdir(parents=True)
        (beside / name / "manifest.json").write_text("{}", encoding="utf-8")
    os.utime(beside / "1", (1.0, 1.0))  # registered long ago
    os.utime(beside / ".hidden-3", (time.time() - 7200,) * 2)
    first = version_store.hide("tiny", 1)
    assert sorted(path.name for path in beside.iterdir()) == [".hidden-1", "2"]
    version_store.hide("tiny", 2).remove()
    first.restore()
    assert sorted(path.name for path in beside.iterdir()) == ["1"]
