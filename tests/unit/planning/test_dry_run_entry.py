"""`python -m jobs.adapt --dry-run`: the same answer as the service's, without one, and nothing made."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from tiny_models import random_draft, register_draft, write_target

from eda_service.errors import InputError, NotFoundError
from eda_service.planning.dry_run import dry_run
from eda_service.storage.objects import ObjectStore
from eda_service.storage.place import OnStorage
from eda_service.targets.loader import Target
from jobs.adapt import adapt, arguments_of_adapt
from jobs.common import config_of


@pytest.fixture
def home(tmp_path: Path, tiny_target: Target, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDA_HOME", str(tmp_path / "home"))
    write_target(tmp_path / "tiny", "llama")
    register_draft(tmp_path / "home", random_draft(tiny_target), tiny_target)
    return tmp_path / "home"


def parse(home: Path, *more: str) -> argparse.Namespace:
    target = str(home.parent / "tiny")
    return arguments_of_adapt().parse_args(["--target", target, "--base-draft", "tiny@1", "--dry-run", *more])


def test_it_prints_the_need_and_makes_no_job(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse(home, "--set", "train.use_gpu=true", "--set", "train.num_workers=4", "--gpu", "a100")
    adapt(arguments)
    lines = capsys.readouterr().out.splitlines()
    train = next(line.split() for line in lines if line.startswith("train "))
    assert train[:8] == ["train", "pack", "4", "0.5", "CPU,", "1", "GPU,", "1"]
    assert [line.split()[0] for line in lines[:7]] == [
        *("STAGE", "validate", "generate", "select", "train", "evaluate", "publish")
    ]
    assert any("time is for device a100" in line for line in lines)
    assert not (home / "runs").exists()


def test_it_is_what_the_plan_says(home: Path) -> None:
    found = dry_run(config_of(parse(home)), home)
    assert found.seconds["total"] == pytest.approx(sum(stage.seconds for stage in found.stages), abs=1)
    assert sum(found.seconds.values()) - found.seconds["total"] == pytest.approx(found.seconds["total"], abs=3)
    assert found.fits


def test_an_unknown_gpu_or_job_is_refused(home: Path) -> None:
    with pytest.raises(InputError, match="no GPU 'h900'"):
        adapt(parse(home, "--gpu", "h900"))
    with pytest.raises(NotFoundError, match="no job adapt_0"):
        adapt(parse(home, "--job-id", "adapt_0"))


def test_on_storage_by_url_the_disk_of_the_home_does_not_count(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machines that will run the job are not known yet, and submit asks nothing of the home either."""
    wanted = config_of(parse(home, "--set", "dataset.num_prompts=1000000", "--set", "selfgen.answers_per_prompt=8"))
    here = dry_run(wanted, home)
    assert not here.fits
    assert here.free_disk_bytes is not None
    storage = OnStorage(ObjectStore(str(tmp_path / "bucket")))
    monkeypatch.setattr("eda_service.planning.dry_run.current_place", lambda: storage)
    there = dry_run(wanted, home)
    assert there.fits
    assert there.free_disk_bytes is None
