"""The grid's cells: their names are files, and a config that does not validate would end a run of hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.paper.cells import GROUPS, SELECTED, Cell
from benchmarks.paper.run import cells, config_of
from benchmarks.paper.tables import mean_length, summary

DOMAINS = ["math", "medical", "code"]


def every_cell() -> list[Cell]:
    return list(cells(DOMAINS, list(GROUPS)))


def test_no_cell_is_there_twice() -> None:
    names = [cell.name for cell in every_cell()]
    assert len(names) == len(set(names)) > 60


@pytest.mark.parametrize("cell", every_cell(), ids=lambda cell: cell.name)
def test_every_config_is_valid_and_says_what_the_name_says(cell: Cell) -> None:
    config = config_of(cell, "smollm2-135m@2", Path("prompts.jsonl"))
    assert config.seed == cell.seed
    assert config.target.model == f"smollm2-135m-{cell.domain}"
    assert config.selfgen.answers == ("dataset" if cell.data == "original" else "target")
    if cell.method in ("full_ft", "lora", "retrain", "eda"):
        assert config.train.method == cell.method
    if "selection.method" in cell.settings and cell.method == "eda" and cell.data == "selfgen":
        assert config.selection.keep_fraction == SELECTED["selection.keep_fraction"]


def result(length: float) -> dict[str, object]:
    tasks = {"a": {"T0": {"tree": {"acceptance_length": length}}}}
    return {"acceptance_length": length, "tasks": tasks, "trained": {"trainable_fraction": 0.24, "seconds": 60.0}}


def test_ratios_name_their_cells_and_wait_for_them() -> None:
    made = summary({"math-eda-selfgen-s0": result(3.0), "math-full_ft-original-s0": result(2.5)})
    assert made["math.eda_selfgen_over_fullft_original"] == 1.2
    assert made["math.best_over_eda_selfgen"] is None
    assert made["math.eda-selfgen.seeds"] == [3.0]
    assert mean_length(result(2.5)) == 2.5
    assert mean_length(result(2.5), temperature=1.0) is None
