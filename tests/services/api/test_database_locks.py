"""No request makes the API's process open a file of its own database, or lose its locks on one.

Each route that takes a path, a name or an id is given the database, the files beside it, hard links and links to them,
and directories that hold them, with the roots that an operator may have set. Python's audit hook has seen every file
that a request opened; after the requests of each path the kernel is asked which POSIX locks this process holds
(`/proc/locks`), as a lock that is lost does not come back.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from named_requests import BODY, named_requests

from api.app import create_app
from api.settings import Settings

BESIDE = ("", "-wal", "-shm")
Identity = tuple[int, int]


@dataclass
class Watch:
    """Files that nobody may open now, and who did."""

    files: frozenset[Identity] = frozenset()
    opened: list[str] = field(default_factory=list)


_watch = Watch()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watch.files:
        return
    path, _, flags = arguments
    if isinstance(flags, int) and flags & os.O_PATH:
        return  # reads nothing, and closing it drops no lock
    try:
        found = os.stat(path)
    except (OSError, TypeError, ValueError):
        return
    if (found.st_dev, found.st_ino) in _watch.files:
        _watch.opened.append(str(path))


@pytest.fixture(scope="module", autouse=True)
def _audited() -> None:
    sys.addaudithook(_audit)  # for the life of the process; it does nothing while nothing is watched


def identities(database: Path) -> frozenset[Identity]:
    found = (os.stat(f"{database}{suffix}") for suffix in BESIDE)
    return frozenset((each.st_dev, each.st_ino) for each in found)


def locks(files: frozenset[Identity]) -> set[tuple[int, str]]:
    """POSIX locks of this process on some files, by inode and range."""
    held = set()
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        _, kind, _, _, pid, place, *span = line.replace("-> ", "").split()
        inode = int(place.rsplit(":", 1)[1])
        if (kind, int(pid)) == ("POSIX", os.getpid()) and inode in {each for _, each in files}:
            held.add((inode, " ".join(span)))
    return held


def require_unopened(what: str) -> None:
    assert not _watch.opened, f"{what} made the API open {_watch.opened}"


@contextmanager
def watching(database: Path) -> Iterator[Callable[[str], None]]:
    """Nothing inside opens the database's files; the function checks that, and that the locks are there."""
    files = identities(database)
    before = locks(files)
    assert {inode for inode, _ in before} == {os.stat(f"{database}{suffix}").st_ino for suffix in ("", "-shm")}

    def check(what: str) -> None:
        require_unopened(what)
        assert before <= locks(files), f"{what} made the API lose its locks"
        assert identities(database) == files, f"{what} replaced a file of the database"

    _watch.files, _watch.opened = files, []
    try:
        yield check
    finally:
        _watch.files = frozenset()


def disguises(database: Path, home: Path, allowed: Path) -> list[str]:
    """Paths that lead to the database's files or to directories that hold them."""
    real = [f"{database}{suffix}" for suffix in (*BESIDE, "-journal")]
    config = json.dumps({"architectures": ["LlamaForCausalLM"]})
    for number, path in enumerate(real[: len(BESIDE)]):
        os.link(path, allowed / f"hard{number}.jsonl")
        (allowed / f"soft{number}.jsonl").symlink_to(path)
        (allowed / f"soft-hard{number}").symlink_to(f"hard{number}.jsonl")
        for kind in ("config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"):
            model = allowed / f"model-{number}-{kind}"
            model.mkdir()
            (model / "config.json").write_text(config)
            (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
            (model / "model.safetensors").write_bytes(b"")
            (model / kind).unlink(missing_ok=True)
            os.link(path, model / kind)
    below = allowed / "model-below"
    (below / "inner").mkdir(parents=True)
    for name in ("config.json", "adapter_config.json", "model.safetensors"):
        (below / name).write_text(config)
    os.link(real[0], below / "inner" / "extra.json")
    (allowed / "soft-home").symlink_to(home)
    (allowed / "soft-directory").symlink_to(database.parent)
    made = sorted(str(path) for path in allowed.iterdir())
    dotted = f"{allowed}/../{database.parent.name}/{database.name}"
    return [*real, str(home), str(database.parent), dotted, f"{allowed}/soft-directory/{database.name}", *made]


def place(tmp_path: Path, layout: str) -> tuple[Path, tuple[Path, ...], str]:
    """(where the database is, roots, its URL) of one way to set a service up."""
    home, allowed = tmp_path / "home", tmp_path / "allowed"
    if layout == "database beneath a root":
        return allowed / "other.db", (allowed,), f"sqlite:///{allowed / 'other.db'}"
    roots = {"a root beside the home": allowed, "a root above the home": tmp_path, "everything": Path("/")}
    return home / "eda.db", (roots[layout],), ""


@pytest.mark.parametrize(
    "layout", ["a root beside the home", "a root above the home", "everything", "database beneath a root"]
)
def test_no_request_makes_the_api_open_its_database(settings: Settings, tmp_path: Path, layout: str) -> None:
    database, roots, url = place(tmp_path, layout)
    changed = settings.model_copy(update={"local_roots": roots, "database_url": url, "dispatch_interval_s": 60.0})
    with TestClient(create_app(changed), raise_server_exceptions=False) as client:
        first = client.post("/v1/adaptations", json=BODY).json()["id"]
        paths = disguises(database, settings.home, tmp_path / "allowed")
        with watching(database) as check:
            for path in paths:
                for method, route, body in named_requests(path):
                    answer = client.request(method, route, json=body)
                    what = f"{method} {route} {body}: {answer.status_code} {answer.text[:200]}"
                    assert answer.status_code < 500 or answer.json()["error"]["code"] != "internal", what
                    if answer.is_error and str(settings.home) not in path:  # the caller's own words may be repeated
                        assert str(settings.home) not in answer.text, what
                    require_unopened(what)
                check(f"one of the requests with {path}")
            last = client.post("/v1/adaptations", json={**BODY, "force": True}).json()["id"]
            look = "import sqlite3,sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT id FROM jobs').fetchall())"
            seen = subprocess.run(
                [sys.executable, "-c", look, str(database)], capture_output=True, text=True, check=True
            )
            assert first in seen.stdout
            assert last in seen.stdout
            check("another process that opened the database and ended")


def test_a_process_that_loses_its_locks_is_caught(settings: Settings) -> None:
    """The checks above do fail where something opens the database."""
    with TestClient(create_app(settings)) as client:
        client.post("/v1/adaptations", json=BODY)
        database = settings.home / "eda.db"
        with watching(database) as check:
            check("nothing")
            os.close(os.open(database, os.O_RDONLY))
            with pytest.raises(AssertionError, match="made the API open"):
                check("opening it")
            _watch.opened.clear()
            with pytest.raises(AssertionError, match="lose its locks"):
                check("closing it")


def test_sqlite_itself_may_open_it(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        client.post("/v1/adaptations", json=BODY)
        with watching(settings.home / "eda.db") as check:
            sqlite3.connect(settings.home / "eda.db").close()
            check("another connection of the same library")
