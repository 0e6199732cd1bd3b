"""A running service as another user of the machine, and as another machine, sees it: nothing to read, write or call."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from draft_files import put_draft
from other_user import every_path, reachable
from running import REPOSITORY, Service, listeners_of, off_loopback
from waiting import TEST_TIMEOUT_S

from eda_service.client import Client

ENTRY = f"{sys.executable} {REPOSITORY / 'tests' / 'integration' / 'tiny_job.py'}"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A directory that everybody can enter, unlike that of pytest, and short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))
    path.chmod(0o755)
    (path / "t").mkdir()
    (path / "t").chmod(0o1777)
    yield path
    shutil.rmtree(path)


def in_shared_memory(family: Sequence[psutil.Process]) -> set[Path]:
    """The files of /dev/shm that these processes have mapped; another service beside this one has its own there."""
    found = set()
    for each in family:
        with contextlib.suppress(OSError):  # it has ended
            mapped = re.findall(r"/dev/shm/\S+", Path(f"/proc/{each.pid}/maps").read_text())
            found |= {Path(path) for path in mapped}
    assert any("plasma" in path.name for path in found)  # where Ray keeps its objects
    return {path for path in found if path.exists()}


def family_of(service: Service) -> list[psutil.Process]:
    supervisor = psutil.Process(service.child.pid)
    return [each for each in (supervisor, *supervisor.children(recursive=True)) if each.is_running()]


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[Service]:
    """Started with no umask at all, in a home and a directory that somebody else could have prepared."""
    home, cwd = root / "home", root / "cwd"
    put_draft(home)
    home.chmod(0o777)
    cwd.mkdir()
    for name in ("api", "jobs", "ray", "random"):
        (cwd / f"{name}.py").write_text(f"open({str(root / 'taken')!r}, 'a').write('{name} '); raise SystemExit(9)\n")
    settings = {
        "EDA_JOB_COMMAND": ENTRY,
        "EDA_DISPATCH_INTERVAL_S": "0.3",
        "EDA_HUB_AT_SUBMIT": "skip",
        "TMPDIR": str(root / "t"),
    }
    with Service(home, settings, cwd=cwd, umask=0) as running:
        yield running


@pytest.fixture(scope="module")
def used(service: Service) -> Service:
    """After a job, its report's page and a look at the web pages."""
    with Client(str(service.up_file["api_url"])) as client:
        job = client.create({"model": "org/m", "base_draft": "small", "served_name": "succeed", "force": True})
        assert service.wait_job(client, job.id).status == "succeeded"
        client.logs(job.id)
    for path in ("/ui/", "/metrics", "/health"):
        assert httpx.get(f"{service.up_file['api_url']}{path}", timeout=60, follow_redirects=True).is_success
    return service


def test_another_user_reaches_nothing_in_the_home_or_in_rays_directories(used: Service, root: Path) -> None:
    canary = root / "canary"
    canary.write_text("open to all")
    paths = every_path(root / "home") + every_path(root / "t")
    assert len(paths) > 100
    assert any(path.is_socket() for path in paths)
    assert any(path.suffix == ".log" and "session_" in str(path) for path in paths)
    assert reachable([canary, *paths]) == [canary, root / "t"]
    assert reachable(sorted(in_shared_memory(family_of(used)))) == []
    assert Path(used.up_file["ray_temp_dir"]).parent == root / "t"


def test_what_the_service_writes_is_private_by_itself(used: Service) -> None:
    """Not only because nobody can enter the home: a copy or a backup of it is no less private."""
    given = {used.home / "drafts", *(used.home / "drafts").rglob("*"), used.home / "up.log"}
    written = [path for path in every_path(used.home) if path not in given]
    assert [path for path in written if path.stat().st_mode & 0o077] == []
    assert {"eda.db", "up.json", "up.lock", "api.lock", "auth_token", "api.log"} <= {path.name for path in written}


def test_a_home_that_was_open_is_closed_and_it_is_said(used: Service) -> None:
    log = (used.home / "up.log").read_text()
    assert log.count("was open to other users (mode 777); now only its owner can enter it") == 1


def test_nothing_that_lies_where_it_was_started_is_run(used: Service, root: Path) -> None:
    assert not (root / "taken").exists()


def test_jobs_and_replicas_are_told_the_roots_that_requests_are_held_to(used: Service, root: Path) -> None:
    """They open files by themselves, so what the API allows is in the environment that Ray's workers inherit."""
    pids = used.up_file["pids"]
    told, held = (psutil.Process(pids[name]).environ()["EDA_LOCAL_ROOTS"] for name in ("ray_head", "api"))
    assert told == held == str(root / "cwd")


def test_every_listener_is_on_loopback(used: Service) -> None:
    """Ray's head and agents, its workers, the API: one node needs nothing else."""
    found = listeners_of(psutil.Process(used.child.pid))
    kinds = {"gcs_server", "raylet", "dashboard.py", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "-m api"}
    assert {kind for kind in kinds if any(kind in command for _, command in found)} == kinds
    assert off_loopback(found) == []


def test_nothing_is_left_when_it_is_down(used: Service, root: Path) -> None:
    _, *family = family_of(used)
    shared = in_shared_memory(family)
    assert used.cli("down", "--home", str(used.home)).returncode == 0
    assert [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    assert list((root / "t").iterdir()) == []
    assert [path for path in shared if path.exists()] == []
    assert not (used.home / "up.json").exists()
    used.start_again()
