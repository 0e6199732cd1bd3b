"""Files: written whole or not at all, hashed, checked; directories published once; room asked for before it is used."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import pytest
from pydantic import ValidationError

from eda_service.errors import ArtifactCorruptError, InsufficientStorageError
from eda_service.records import FileEntry
from eda_service.storage.files import (
    file_entry,
    publish_dir,
    require_free_bytes,
    sha256_file,
    sha256_text,
    verify_files,
    write_bytes,
    write_json,
)


def test_hashes_are_sha256(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)  # more than two chunks
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()
    assert sha256_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "f.json"
    write_json(path, {"version": 1})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"version": 2})
    assert path.read_text() == '{\n  "version": 1\n}\n'


def test_missing_directories_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "f", b"x")
    assert (tmp_path / "a" / "b" / "f").read_bytes() == b"x"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["f"]


def test_two_threads_may_write_one_file(tmp_path: Path) -> None:
    """A driver's main thread and its heartbeat both write progress.json."""
    path, errors = tmp_path / "progress.json", []
    contents = [bytes([65 + i]) * (20_000 * (i + 1)) for i in range(2)]

    def work(data: bytes) -> None:
        for _ in range(100):
            try:
                write_bytes(path, data)
                if path.read_bytes() not in contents:
                    errors.append("torn file")
            except OSError as error:
                errors.append(repr(error))

    threads = [threading.Thread(target=work, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_entries_verify(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"abc")
    entry = file_entry(tmp_path, tmp_path / "d" / "f")
    assert (entry.path, entry.size_bytes, entry.transient) == ("d/f", 3, False)
    verify_files(tmp_path, [entry])


@pytest.mark.parametrize("content", [b"abd", b"ab", b""])
def test_one_changed_byte_is_found(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    entry = file_entry(tmp_path, path)
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()[:12]
    with pytest.raises(
        ArtifactCorruptError, match=f"has sha256 {found}, its record says ba7816bf8f01; delete"
    ) as caught:
        verify_files(tmp_path, [entry])
    assert caught.value.code == "artifact_corrupt"


def test_a_missing_file_is_found_unless_it_is_transient(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    entry, transient = file_entry(tmp_path, path), file_entry(tmp_path, path, transient=True)
    path.unlink()
    with pytest.raises(ArtifactCorruptError, match="is missing"):
        verify_files(tmp_path, [entry])
    verify_files(tmp_path, [transient])
    path.write_bytes(b"other")
    with pytest.raises(ArtifactCorruptError):
        verify_files(tmp_path, [transient])  # may be gone, may not differ


def stage(tmp_path: Path, name: str, text: str) -> Path:
    staging = tmp_path / name
    (staging / "sub").mkdir(parents=True)
    (staging / "sub" / "f").write_text(text)
    return staging


def test_a_directory_is_published_once(tmp_path: Path) -> None:
    destination = tmp_path / "pack" / "1"
    publish_dir(stage(tmp_path, ".one", "first"), destination)
    publish_dir(stage(tmp_path, ".two", "second"), destination)
    assert (destination / "sub" / "f").read_text() == "first"
    assert not (tmp_path / ".one").exists()
    assert not (tmp_path / ".two").exists()


def test_a_publish_that_fails_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging, destination = stage(tmp_path, ".one", "first"), tmp_path / "pack" / "1"

    def fail(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="cross-device"):
        publish_dir(staging, destination)
    assert not destination.exists()
    assert (staging / "sub" / "f").read_text() == "first"


def test_too_little_disk_states_need_free_and_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10e9, 8e9, 2_000_000_000))
    assert require_free_bytes(tmp_path / "new", 2_000_000_000, param="dataset.num_prompts") == 2_000_000_000
    with pytest.raises(InsufficientStorageError) as caught:
        require_free_bytes(tmp_path / "new", 2_000_000_001 + 10**9, param="dataset.num_prompts")
    assert "needs 3.0 GB" in str(caught.value)
    assert "2.0 GB is free" in str(caught.value)
    assert "lower dataset.num_prompts" in str(caught.value)
    assert (caught.value.param, caught.value.code) == ("dataset.num_prompts", "insufficient_storage")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", "..", "a\0b"])
def test_a_record_cannot_name_a_file_outside_of_its_directory(path: str) -> None:
    with pytest.raises(ValidationError, match="inside its artifact"):
        FileEntry(path=path, sha256="0", size_bytes=0)
    assert FileEntry(path="a/..b/c", sha256="0", size_bytes=0).path == "a/..b/c"
