"""A load whose process died is not begun again under the same number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from api.endpoint.load_failures import Cause, cause_of
from api.endpoint.load_marks import LoadMarks
from eda_service.errors import WorkerLostError
from eda_service.raycluster.serve_plan import ServedModel

MODEL = ServedModel(name="m", uid="dep_1", target={}, base_draft=None, pack=None)


@pytest.fixture
def marks(tmp_path: Path) -> LoadMarks:
    return LoadMarks(tmp_path, "session_1")


def left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "loading").iterdir())


def died(marks: LoadMarks, tmp_path: Path) -> None:
    """Leave the mark that a process leaves which dies in the middle of a load."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = int(psutil.Process(child.pid).create_time())
    with marks.loading(MODEL):
        (mine,) = left(tmp_path)
    name = ".".join([*mine.name.split(".")[:4], str(child.pid), str(started)])
    (tmp_path / "loading" / name).touch()
    with marks.loading(MODEL):
        pass  # that process lives: another replica, which loads the same
    child.kill()
    child.communicate()


def test_a_load_that_ends_leaves_nothing(marks: LoadMarks, tmp_path: Path) -> None:
    def breaks() -> None:
        with marks.loading(MODEL):
            assert len(left(tmp_path)) == 1
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        breaks()
    with marks.loading(MODEL):
        pass
    assert left(tmp_path) == []


def test_a_load_that_killed_its_process_is_left_out_until_the_next_attempt(marks: LoadMarks, tmp_path: Path) -> None:
    died(marks, tmp_path)
    with pytest.raises(WorkerLostError, match="the process that loaded m died") as caught, marks.loading(MODEL):
        pytest.fail("it was loaded again")
    assert cause_of(caught.value) is Cause.ENVIRONMENT
    with LoadMarks(tmp_path, "session_2").loading(MODEL):
        pass  # the service was stopped in between, perhaps in the middle of a load
    second = MODEL.model_copy(update={"attempt": 1})
    with marks.loading(second):
        pass
    marks.forget_others([second])
    assert left(tmp_path) == []


def test_a_uid_that_is_none_of_ours_names_no_file(marks: LoadMarks, tmp_path: Path) -> None:
    for uid in ("", "../x", "*"):
        with marks.loading(MODEL.model_copy(update={"uid": uid})):
            assert not (tmp_path / "loading").exists()
