"""What everything that keeps state asks of a store, on each that it may get: a directory, and obstore on a directory
and on S3.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eda_service.storage.objects import DirectoryObjects, Objects, ObjectStore


def in_a_directory(request: pytest.FixtureRequest, path: Path) -> Objects:
    return DirectoryObjects(path)


def through_obstore(request: pytest.FixtureRequest, path: Path) -> Objects:
    return ObjectStore(str(path))


def on_s3(request: pytest.FixtureRequest, path: Path) -> Objects:
    server = request.getfixturevalue("s3_server")
    patch = request.getfixturevalue("monkeypatch")
    for name, value in server.env.items():
        patch.setenv(name, value)
    return ObjectStore(server.new_bucket())


@pytest.fixture(params=[in_a_directory, through_obstore, on_s3])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    make: Callable[[pytest.FixtureRequest, Path], Objects] = request.param
    return make(request, tmp_path / "store")


def test_objects_are_read_as_written(objects: Objects) -> None:
    assert objects.read("a/b") is None
    objects.write("a/b", b"one")
    objects.write("a/b", b"two")
    objects.write("a/c/d", b"")
    assert objects.read_many(["a/b", "a/x", "a/c/d"]) == [b"two", None, b""]


def test_a_listing_has_what_is_directly_below(objects: Objects) -> None:
    assert objects.children("a") == []
    for key in ("a/b", "a/c/d", "a/.hidden", "e"):
        objects.write(key, b"x")
    assert objects.children("a") == [".hidden", "b", "c"]
    assert objects.children("") == ["a", "e"]
    assert objects.children("nothing") == []


def test_what_is_deleted_is_gone_whether_it_was_there_or_not(objects: Objects) -> None:
    objects.write("a/b", b"x")
    objects.write("a/c", b"y")
    objects.delete(["a/none", "a/b"])
    assert objects.read_many(["a/b", "a/c"]) == [None, b"y"]


def test_of_many_creators_one_wins(objects: Objects) -> None:
    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(lambda n: objects.create("made/claim", str(n).encode()), range(12)))
    assert won.count(True) == 1
    assert objects.read("made/claim") == str(won.index(True)).encode()
    assert objects.children("made") == ["claim"]
    objects.delete(["made/claim"])
    assert objects.create("made/claim", b"again", private=True)


def test_files_go_in_and_come_out_whole(objects: Objects, tmp_path: Path) -> None:
    large, copy = tmp_path / "large", tmp_path / "new" / "copy"
    large.write_bytes(b"content" * 1_500_000)
    assert not objects.get_file("files/large", copy)
    objects.put_file("files/large", large)
    assert objects.children("files") == ["large"]
    assert objects.get_file("files/large", copy)
    assert copy.read_bytes() == large.read_bytes()
    objects.write("files/large", b"short")
    assert objects.get_file("files/large", copy)
    assert copy.read_bytes() == b"short"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_below_a_prefix_are_the_same_objects(objects: Objects) -> None:
    below = objects.below("a/b")
    below.write("c/d", b"x")
    assert objects.read("a/b/c/d") == b"x"
    assert below.children("") == ["c"]
    assert below.below("c").read("d") == b"x"
    assert below.address("c/d") == objects.address("a/b/c/d")
    below.delete(["c/d"])
    assert objects.read("a/b/c/d") is None


def test_a_file_that_lies_in_its_place_stays(tmp_path: Path) -> None:
    directory, path = DirectoryObjects(tmp_path), tmp_path / "inputs" / "x"
    directory.write("inputs/x", b"x")
    before = path.stat()
    directory.put_file("inputs/x", path)
    assert directory.get_file("inputs/x", path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_private_file_is_open_to_its_user_alone(tmp_path: Path) -> None:
    directory = DirectoryObjects(tmp_path)
    assert directory.create("secret", b"x", private=True)
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0


def test_below_a_file_there_is_nothing(tmp_path: Path) -> None:
    directory = DirectoryObjects(tmp_path)
    directory.write("runs/left-here", b"x")
    assert directory.read("runs/left-here/job.json") is None
    assert directory.children("runs/left-here") == []


def test_a_directory_in_an_objects_place_is_not_read_as_one_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "job.json").mkdir()
    with pytest.raises(IsADirectoryError):
        DirectoryObjects(tmp_path).read("job.json")
