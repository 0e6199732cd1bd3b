"""What a job that was killed while it prepared its pack or draft left there, once it has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.tasks import ImportConfig, Task
from eda_service.storage.published import registry

TARGET = TargetSpec(model="org/model")


@pytest.mark.parametrize("kind", ["packs", "drafts"])
def test_only_what_this_job_was_preparing_is_removed(kind: str, home: Path) -> None:
    tasks: dict[str, Task] = {
        "packs": AdaptConfig(target=TARGET, served_name="mine"),
        "drafts": ImportConfig(target=TARGET, source="/data/mine", name="mine"),
    }
    reserve = registry.reserve_version if kind == "packs" else registry.reserve_draft
    stage = registry.stage_pack if kind == "packs" else registry.stage_draft
    numbers = {job: reserve("mine", job, home) for job in ("ended", "running")}
    left = {job: stage("mine", number, home) for job, number in numbers.items()}
    for directory in left.values():
        (directory / "pack.safetensors").write_bytes(b"half of it")
    registry.forget_staging(tasks[kind], "unknown", home)
    assert [directory.is_dir() for directory in left.values()] == [True, True]
    registry.forget_staging(tasks[kind], "ended", home)
    assert not left["ended"].exists()
    assert (left["running"] / "pack.safetensors").is_file()
    assert reserve("mine", "ended", home) == numbers["ended"]  # a job that is tried again has its number
    registry.forget_staging(tasks[kind], "ended", home)
