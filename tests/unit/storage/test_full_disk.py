"""A disk that is really full: a small file system of its own, where this user may mount one."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import InsufficientStorageError
from eda_service.pipeline.failures import own_error
from eda_service.storage.files import is_disk_full, write_bytes
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Failed

_SIZE_BYTES = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_BYTES}", "eda-test", str(path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here: this user is not root")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    with suppress(OSError), (path / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def test_a_full_disk_is_told_although_it_is_full(small: Path) -> None:
    run = RunDir(small / "adapt_1")
    run.create(AdaptConfig(target=TargetSpec(model="org/model")), origin="api")
    run.reserve()
    fill(small)
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(run.root / "progress.json", bytes(8192))
    failure = own_error(caught.value)
    assert isinstance(failure, InsufficientStorageError)
    run.release()
    run.fail(failure)
    result = run.read_result()
    assert isinstance(result, Failed)
    assert result.error.code == "insufficient_storage"
    assert "retry the job" in result.error.message


def test_libraries_that_only_say_it_are_understood(small: Path) -> None:
    with pytest.raises(Exception, match="os error 28") as caught:
        save_file({"a": torch.zeros(1 << 20)}, small / "x.safetensors")
    assert is_disk_full(caught.value)
    wrapped = ValueError("saving failed")
    wrapped.__cause__ = caught.value
    assert is_disk_full(wrapped)
    assert not is_disk_full(ValueError("other"))
    assert not is_disk_full(OSError(errno.EACCES, "denied"))


def test_without_room_for_the_reserve_a_job_still_runs(small: Path) -> None:
    run = RunDir(small / "adapt_1")
    run.create(AdaptConfig(target=TargetSpec(model="org/model")), origin="api")
    fill(small)
    run.reserve()
    run.release()
