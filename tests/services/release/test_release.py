"""A release as people get it: wheel and sdist are built, and the wheel is installed into a fresh environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from eda_service import __version__

ROOT = Path(__file__).resolve().parents[3]
NEEDED = (
    "eda_service/assets/drafts/smollm2-135m/3/manifest.json",
    "eda_service/assets/drafts/smollm2-135m-eagle3/1/manifest.json",
    "eda_service/assets/tuned_targets/smollm2-135m-math/adapter_config.json",
    "eda_service/jobstore/migrations/versions/r0001_jobs.py",
    "api/ui/templates/base.html",
    "jobs/adapt.py",
)
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"

pytestmark = pytest.mark.slow


def run(command: list[str], cwd: Path) -> str:
    """Run a command away from this checkout's modules; its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def built(tree: Path, what: str, out: Path) -> Path:
    """Build `wheel` or `sdist` of a tree as pip does, without fetching anything."""
    return out / run([sys.executable, "-c", BUILD, f"build_{what}", str(out)], tree).split()[-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has of this checkout, as a release is made from it."""
    root = tmp_path_factory.mktemp("tree")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    skipped = ("benchmarks/", "tests/", "docs/")
    for name in filter(None, map(os.fsdecode, names)):
        if not name.startswith(skipped) and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    return root


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    return built(tree, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_sdist_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(built(tree, "sdist", tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert unpacked.name == f"eda_service-{__version__}"
    (tmp_path / "again").mkdir()
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(built(unpacked, "wheel", tmp_path / "again")) as again:
        assert sorted(ours.namelist()) == sorted(again.namelist())
        assert set(NEEDED) <= set(ours.namelist())


def test_the_wheel_gives_the_command_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], tmp_path)
    # What the package needs is there already, in the environment that runs this test; it comes after what is installed.
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    here, ours = run([sys.executable, "-c", where], tmp_path).strip(), run([str(python), "-c", where], tmp_path).strip()
    (Path(ours) / "dependencies.pth").write_text(here + "\n", encoding="utf-8")
    eda = str(tmp_path / "env" / "bin" / "eda")
    told = run([eda, "--version"], tmp_path)
    assert told.split()[:2] == ["eda-service", __version__]
    assert f"installed in {ours}" in told
    assert "import" in run([eda, "drafts", "--help"], tmp_path)
