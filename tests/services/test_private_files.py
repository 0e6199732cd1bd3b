"""The umask and the home that keep the service's files from other users of the machine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eda_service.jobstore.home import open_store
from eda_service.private_files import private_home


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_home_is_private_and_what_is_above_it_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        private_home(tmp_path / "a" / "home")
    assert (mode(tmp_path / "a" / "home"), mode(tmp_path / "a") & 0o055) == (0o700, 0o055 & ~_umask())
    assert caplog.records == []


def _umask() -> int:
    given = os.umask(0)
    os.umask(given)
    return given


@pytest.mark.parametrize("before", [0o755, 0o750, 0o777, 0o701])
def test_an_open_home_is_closed_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: int
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(before)
    with caplog.at_level(logging.INFO):
        private_home(home)
        private_home(home)
    assert mode(home) == 0o700
    (record,) = caplog.records
    assert f"mode {before:03o}" in record.getMessage()


def test_a_volume_of_somebody_else_stays_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o770)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    private_home(home)
    assert mode(home) == 0o770
    assert "it stays so" in caplog.text


@pytest.mark.parametrize("home", ["{file}", "{file}/below", "/proc/none/below"])
def test_a_home_that_cannot_be_made_is_named(tmp_path: Path, home: str) -> None:
    (tmp_path / "file").touch()
    home = home.format(file=tmp_path / "file")
    code = "from eda_service.cli.main import app; app(prog_name='eda')"
    arguments = [sys.executable, "-c", code, "up", "--home", home]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the state root {home} cannot be made or entered (")
    assert "name another directory with --home or EDA_HOME" in " ".join(done.stderr.split())


def test_keys_make_a_home_private_and_keep_the_users_umask(tmp_path: Path) -> None:
    """A command that is not the service itself: what else it writes has the modes that its user wants."""
    open_store(tmp_path / "home").close()
    (tmp_path / "home").chmod(0o755)
    arguments = ["keys", "create", "laptop", "--owner", "ada", "--home", str(tmp_path / "home")]
    code = (
        "import os, sys; os.umask(0o027); from eda_service.cli.main import app; "
        f"app({arguments!r}, standalone_mode=False); open({str(tmp_path / 'out')!r}, 'w')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    assert (mode(tmp_path / "home"), mode(tmp_path / "out")) == (0o700, 0o640)
