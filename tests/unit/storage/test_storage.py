"""Objects by URL, on a directory and on S3: whole or not there, created once; what a kill leaves is not seen."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_server import S3Server

from eda_service.cli.service.checks import CheckState, check_storage
from eda_service.errors import ArtifactCorruptError, InputError, StorageError
from eda_service.storage.blobs import Blobs
from eda_service.storage.files import file_entry
from eda_service.storage.journal import Journal
from eda_service.storage.objects import ObjectStore, storage_env
from eda_service.storage.place import OnDisk, current_place

UPLOADER = """
import sys
from pathlib import Path
from eda_service.storage.objects import open_storage, storage_url
print("begins", flush=True)
open_storage(storage_url()).put_file("large", Path(sys.argv[1]))
"""


def test_a_journal_has_one_order_for_all_writers(storage: ObjectStore) -> None:
    writers = [Journal(storage.below("events")) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda writer: [writer.append([id(writer), n]) for n in range(6)], writers))
    found = Journal(storage.below("events")).read()
    assert len(found) == 24
    for writer in writers:
        assert [n for who, n in found if who == id(writer)] == list(range(6))
    assert Journal(storage.below("events")).read(20) == found[20:]
    assert Journal(storage.below("events")).append("next") == 24


def test_files_by_their_content(storage: ObjectStore, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "x").write_bytes(b"content" * 2_000_000)  # several parts of an upload
    entry = file_entry(here, here / "x")
    blobs = Blobs(storage.below("files"))
    blobs.upload(here, [entry])
    blobs.fetch(there, [entry])
    assert (there / "x").read_bytes() == (here / "x").read_bytes()
    (there / "x").write_bytes(b"other")
    blobs.fetch(there, [entry])
    assert file_entry(there, there / "x") == entry
    storage.write(f"files/{entry.sha256}", b"spoilt")
    blobs.fetch(there, [entry])  # what is here is right, and nobody is asked
    (there / "x").unlink()
    with pytest.raises(ArtifactCorruptError, match="has sha256"):
        blobs.fetch(there, [entry])
    blobs.delete([entry])
    with pytest.raises(ArtifactCorruptError, match="is not there"):
        blobs.fetch(there, [entry])
    assert list(there.iterdir()) == []


def test_a_kill_in_an_upload_leaves_nothing_to_see(storage: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.truncate(400 << 20)
    for wait_s in (0.05, 0.3):
        command = [sys.executable, "-c", UPLOADER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(wait_s)
            child.kill()
            assert child.wait() == -9  # it had not finished
        assert storage.read("large") is None
        assert "large" not in storage.children("")


def test_the_doctor_tries_it(storage: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = check_storage()
    assert (found.state, found.found) == (CheckState.OK, storage.url)
    assert storage.children("checks") == []
    with monkeypatch.context() as patch:  # a server that takes no notice of the condition
        patch.setattr(ObjectStore, "create", lambda self, key, data: self.write(key, data) or True)
        (found,) = check_storage()
    assert found.state is CheckState.FAIL
    assert "If-None-Match" in found.next_step
    monkeypatch.setenv("EDA_STORAGE", "ftp://host/x")
    (found,) = check_storage()
    assert found.state is CheckState.FAIL
    monkeypatch.delenv("EDA_STORAGE")
    assert check_storage() == []


@pytest.mark.parametrize(
    "url", ["shared/dir", "https://host/x", "s3://", "s3://key:secret@bucket/x", "gs://bucket/x?endpoint=y"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InputError) as caught:
        ObjectStore(url)
    assert caught.value.param == "storage"
    assert "secret" not in caught.value.message


def test_without_the_variable_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDA_STORAGE", raising=False)
    assert isinstance(current_place(), OnDisk)
    assert storage_env() == {}
    monkeypatch.setenv("EDA_STORAGE", "s3://bucket/x")
    assert storage_env() == {"EDA_STORAGE": "s3://bucket/x"}


def test_a_bucket_that_is_not_there_may_come_back(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match="no such bucket") as caught:
        ObjectStore("s3://no-such-bucket/x").write("a", b"")
    assert caught.value.retryable
