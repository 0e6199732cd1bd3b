"""Files named by a caller: what lies beneath a root is opened, and nothing else is even looked at."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eda_service.regular_files import open_regular, protect_database
from eda_service.storage.inputs.allowed import current_roots, roots_env, roots_for
from eda_service.storage.inputs.beneath import MAX_LINKS, OutsideError, Roots

Layout = Callable[[Path, Path], str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file; beside it a file that nobody may name."""
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "root" / "inner" / "file").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("outside")
    return tmp_path / "root"


@pytest.fixture
def roots(root: Path) -> Roots:
    return Roots.of([root], [])


def read(roots: Roots, path: str) -> str:
    stream, _ = roots.open_file(path)
    with stream:
        return stream.read().decode()


def linked(link: Path, target: str) -> str:
    link.symlink_to(target)
    return str(link)


INSIDE: list[Layout] = [
    lambda root, out: f"{root}/inner/file",
    lambda root, out: f"{root}//./inner/../inner/file",
    lambda root, out: linked(root / "link", "inner/file"),
    lambda root, out: linked(root / "link", f"{root}/inner/file"),
    lambda root, out: linked(root / "inner" / "link", "../inner/../inner/file"),
    lambda root, out: linked(root / "directory", "inner") + "/file",
    lambda root, out: f"{linked(root / 'directory', 'inner')}/../inner/file",
]
OUTSIDE: list[Layout] = [
    lambda root, out: f"{out}/secret",
    lambda root, out: f"{root}/../outside/secret",
    lambda root, out: f"{root}/inner/../../outside/secret",
    lambda root, out: f"{out}/../root/inner/file",  # by way of what is not to be looked at
    lambda root, out: linked(root / "link", f"{out}/secret"),
    lambda root, out: linked(root / "link", "../outside/secret"),
    lambda root, out: linked(root / "directory", str(out)) + "/secret",
    lambda root, out: linked(root / "twice", linked(root / "once", f"{out}/secret")),
    lambda root, out: f"{root}beside/file",
    lambda root, out: "inner/file",
    lambda root, out: "",
]


@pytest.mark.parametrize("layout", INSIDE)
def test_what_lies_beneath_is_opened(roots: Roots, root: Path, layout: Layout) -> None:
    assert read(roots, layout(root, root.parent / "outside")) == "inside"


@pytest.mark.parametrize("layout", OUTSIDE)
def test_what_leads_out_is_refused(roots: Roots, root: Path, layout: Layout) -> None:
    with pytest.raises(OutsideError):
        roots.open_file(layout(root, root.parent / "outside"))


@pytest.mark.parametrize("layout", OUTSIDE)
def test_the_refusal_does_not_depend_on_what_is_there(roots: Roots, root: Path, layout: Layout) -> None:
    path = layout(root, root.parent / "outside")
    (root.parent / "outside" / "secret").unlink()
    (root.parent / "outside").rmdir()
    with pytest.raises(OutsideError):
        roots.open_file(path)


@pytest.mark.parametrize(
    ("name", "make", "why"),
    [
        ("fifo", os.mkfifo, "no regular file"),
        ("directory", os.mkdir, "no regular file"),
        ("itself", lambda path: path.symlink_to("itself"), "symbolic links"),
        ("missing", lambda path: None, "No such file"),
        ("long" * 100, lambda path: None, "too long"),
        ("file/below", lambda path: path.parent.write_text(""), "Not a directory"),
    ],
)
def test_what_is_no_file_is_an_os_error(
    roots: Roots, root: Path, name: str, make: Callable[[Path], object], why: str
) -> None:
    make(root / name)
    with pytest.raises(OSError, match=why):
        roots.open_file(f"{root}/{name}")


def test_links_are_bounded(roots: Roots, root: Path) -> None:
    linked(root / "link0", "inner/file")
    for number in range(MAX_LINKS):
        linked(root / f"link{number + 1}", f"link{number}")
    assert read(roots, f"{root}/link{MAX_LINKS - 1}") == "inside"
    with pytest.raises(OSError, match="symbolic links"):
        roots.open_file(f"{root}/link{MAX_LINKS}")


def test_a_nul_is_a_value_error(roots: Roots, root: Path) -> None:
    with pytest.raises(ValueError, match="NUL"):
        roots.open_file(f"{root}/\0")


def test_a_root_that_is_a_link_is_followed_once(root: Path, tmp_path: Path) -> None:
    linked(tmp_path / "alias", str(root))
    roots = Roots.of([tmp_path / "alias"], [])
    assert read(roots, f"{tmp_path}/alias/inner/file") == read(roots, f"{root}/inner/file") == "inside"
    (tmp_path / "alias").unlink()
    linked(tmp_path / "alias", f"{tmp_path}/outside")
    assert read(roots, f"{tmp_path}/alias/inner/file") == "inside"
    with pytest.raises(FileNotFoundError):
        roots.open_file(f"{tmp_path}/alias/secret")


def test_links_lead_from_one_root_to_another(root: Path, tmp_path: Path) -> None:
    linked(root / "link", "../outside/secret")
    assert read(Roots.of([root, tmp_path / "outside"], []), f"{root}/link") == "outside"


@pytest.mark.parametrize("wide", ["/", "..", "."])
def test_no_root_reaches_the_home(tmp_path: Path, wide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "above" / "home"
    (home / "prompts").mkdir(parents=True)
    (home / "prompts" / "kept").write_text("private")
    (tmp_path / "above" / "file").write_text("inside")
    linked(tmp_path / "above" / "link", "home/prompts/kept")
    roots = roots_for([(tmp_path / "above") / wide], home)
    assert read(roots, f"{tmp_path}/above/file") == "inside"
    asked = [f"{home}/prompts/kept", f"{home}/prompts/none", f"{tmp_path}/above/link", f"{home}/../home/prompts/kept"]
    monkeypatch.chdir(home / "prompts")
    for path in [*asked, "/proc/self/cwd/kept"]:
        with pytest.raises(OutsideError):
            roots.open_file(path)
    assert Roots.of([home, home / "prompts"], [home]).directories == ()


def test_storage_in_a_directory_is_private_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "object").write_text("private")
    for url in (f"{tmp_path}/storage", (tmp_path / "storage").as_uri()):
        monkeypatch.setenv("EDA_STORAGE", url)
        with pytest.raises(OutsideError):
            roots_for([tmp_path], tmp_path / "home").open_file(f"{tmp_path}/storage/object")


def test_roots_travel_by_the_environment(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDA_LOCAL_ROOTS", raising=False)
    assert current_roots() is None
    assert roots_env([]) == {}
    for name, value in roots_env([root, home]).items():
        monkeypatch.setenv(name, value)
    found = current_roots()
    assert found is not None
    assert found.directories == (root,)


def test_an_exchange_while_walking_leads_nowhere(roots: Roots, root: Path) -> None:
    """A directory that is exchanged for a link all the time: its file is opened, or it is refused."""
    swapper = (
        "import os, sys\n"
        "root, out = sys.argv[1:]\n"
        "os.symlink(out, root + '/evil')\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for name in ('evil', 'good'):\n"
        "        os.rename(root + '/inner', root + '/' + ('good' if name == 'evil' else 'evil'))\n"
        "        os.rename(root + '/' + name, root + '/inner')\n"
    )
    (root / "inner" / "secret").write_text("inside")
    command = [sys.executable, "-c", swapper, str(root), str(root.parent / "outside")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seen: set[str] = set()
        num_reads, deadline = 0, time.monotonic() + 30.0
        # On a busy machine thousands of reads may pass while the other process waits for its turn.
        while num_reads < 3000 or (not {"inside", "OutsideError"} <= seen and time.monotonic() < deadline):
            num_reads += 1
            try:
                seen.add(read(roots, f"{root}/inner/secret"))
            except (OutsideError, FileNotFoundError) as error:
                seen.add(type(error).__name__)
        child.kill()
    assert "outside" not in seen
    assert {"inside", "OutsideError"} <= seen


def test_files_of_a_directory_with_those_below(roots: Roots, root: Path) -> None:
    linked(root / "inner" / "loop", ".")
    real, files = roots.files(f"{root}/inner/../inner")
    assert (real, sorted(files)) == (root / "inner", [".", "file", "loop/"])
    assert sorted(roots.files(str(root))[1]) == [".", "inner/", "inner/file", "inner/loop/"]
    before = files["file"]
    (root / "inner" / "file").write_text("changed")
    assert roots.files(f"{root}/inner")[1]["file"] != before
    linked(root / "inner" / "secret", f"{root.parent}/outside/secret")
    with pytest.raises(OutsideError) as caught:
        roots.files(str(root))
    assert caught.value.entry == "inner/secret"


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_database_of_this_process_is_never_opened(roots: Roots, root: Path, suffix: str) -> None:
    """Under another name, or as the file that a link of the directory names."""
    database = root.parent / "outside" / "some.db"
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (x)")
    os.link(f"{database}{suffix}", root / "hard")
    (root / "link").symlink_to("hard")
    protect_database(str(database))
    for name in ("hard", "link"):
        with pytest.raises(PermissionError):
            roots.open_file(f"{root}/{name}")
        with pytest.raises(PermissionError):
            open_regular(root / name)
        with pytest.raises(PermissionError):
            roots.files(str(root))
    connection.close()
