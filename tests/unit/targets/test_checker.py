"""The check at submit in its child process: answers are remembered by files, and a child that breaks off is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from odd_checkpoints import settings

from eda_service.config.job import TargetSpec
from eda_service.errors import TargetIncompatibleError, UnsafeCheckpointError
from eda_service.planning.shapes import shape_of
from eda_service.targets.checks.checker import CHECKER, TargetChecker
from eda_service.targets.files.resolve import ResolvedTarget, resolve_target


class Child:
    """Answers as told, and counts."""

    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.answer, self.num_asked = answer, 0

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        self.num_asked += 1
        if self.answer == {}:
            raise RuntimeError("no child starts")
        return self.answer


@pytest.fixture
def model(tmp_path: Path, target_dir: Callable[[str], Path]) -> Path:
    return Path(shutil.copytree(target_dir("llama"), tmp_path / "model"))


@pytest.fixture
def resolved(model: Path) -> ResolvedTarget:
    return resolve_target(TargetSpec(model=str(model)))


def checker(child: Child) -> TargetChecker:
    made = TargetChecker()
    made._child = child  # type: ignore[assignment]
    return made


def test_a_child_checks_and_a_plan_of_the_files_is_refused_as_they_are(model: Path) -> None:
    assert CHECKER.check(resolve_target(TargetSpec(model=str(model))), converses=True) == ()
    assert shape_of(str(model)).hidden_size == 32
    settings(num_hidden_layers=3)(model)
    with pytest.raises(TargetIncompatibleError, match=r"missing: model\.layers\.2\.") as caught:
        shape_of(str(model))
    assert caught.value.param == "target.model"


def test_answers_are_remembered_until_the_files_change(model: Path, resolved: ResolvedTarget) -> None:
    child = Child({"notes": ["tied"]})
    checks = checker(child)
    for _ in range(3):
        assert checks.check(resolved, converses=True) == ("tied",)
    assert child.num_asked == 1
    checks.check(resolved, converses=False)
    assert child.num_asked == 2
    settings(vocab_size=5)(model)
    checks.check(resolve_target(TargetSpec(model=str(model))), converses=True)
    assert child.num_asked == 3


def test_errors_come_as_what_they_were(resolved: ResolvedTarget) -> None:
    told = {"kind": "UnsafeCheckpointError", "message": "pickled", "param": "target.adapter"}
    checks = checker(Child({"error": told}))
    for _ in range(2):
        with pytest.raises(UnsafeCheckpointError, match="pickled") as caught:
            checks.check(resolved, converses=True)
        assert caught.value.param == "target.adapter"


@pytest.mark.parametrize("answer", [None, {}], ids=["breaks off", "does not start"])
def test_a_child_that_breaks_off_leaves_the_check_to_the_job(
    answer: dict[str, Any] | None, resolved: ResolvedTarget
) -> None:
    """Too slow or too large is not wrong: nothing is refused for it, and it is told."""
    (note,) = checker(Child(answer)).check(resolved, converses=True)
    assert "could not be checked" in note


def test_a_child_that_did_not_start_is_asked_again(resolved: ResolvedTarget) -> None:
    child = Child({})
    checks = checker(child)
    checks.check(resolved, converses=True)
    child.answer = {"notes": ["tied"]}
    assert checks.check(resolved, converses=True) == ("tied",)
