"""`eda plan` on the command line: what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from eda_service.cli.main import app

RUN = CliRunner()


def run(*arguments: str) -> dict[str, object]:
    done = RUN.invoke(app, ["plan", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.output)
    return found


def test_a_plan_has_every_stage_and_says_that_gpus_are_assumed() -> None:
    found = run("--model", "7b", "--gpus", "8")
    stages = found["stages"]
    assert isinstance(stages, list)
    assert [stage["stage"] for stage in stages] == ["validate", "generate", "select", "train", "evaluate", "publish"]
    assert [stage["devices"] for stage in stages] == [0, 8, 0, 8, 1, 0]
    assert found["device"]["is_measured"] is False  # type: ignore[index]
    done = RUN.invoke(app, ["plan", "--gpus", "8"])
    assert "assumed utilisation of published peaks" in done.output


def test_a_field_changes_the_plan() -> None:
    half = run("--set", "train.epochs=10")["stages"][3]  # type: ignore[index]
    whole = run()["stages"][3]  # type: ignore[index]
    assert half["tokens"] == whole["tokens"] / 2


def test_a_simulation_has_one_row_per_rate() -> None:
    done = RUN.invoke(
        app, ["plan", "simulate", "--variants-per-day", "10", "--variants-per-day", "1000", "--days", "5", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert list(found) == ["10", "1000"]
    assert found["10"]["utilisation"] < found["1000"]["utilisation"] <= 1.0
    assert found["1000"]["saturated"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "h900"], "no device 'h900'"),
        (["--model", "no-such-model"], "is no size"),
        (["--set", "train.epochs=0"], "train.epochs"),
        (["--from", "/nonexistent"], "lacks a stage's record"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], says: str) -> None:
    done = RUN.invoke(app, ["plan", *arguments])
    assert done.exit_code == 2
    assert says in done.output.replace("\n", " ")
