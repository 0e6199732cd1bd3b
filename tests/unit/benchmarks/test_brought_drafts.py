"""The table of an EAGLE-3 draft that is brought: cells of equal size, and what the summary makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.paper.brought import summary, table
from benchmarks.paper.cells import Cell, brought, brought_seeds
from eda_service.drafts.draft_config import Eagle3Config
from eda_service.drafts.freezing import prepare
from eda_service.drafts.kinds import make_draft
from jobs.common import config_of_paths

SMOLLM2 = Eagle3Config(
    hidden_size=576,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    expert_width=1536,
    vocab_size=49_152,
    rope_theta=1e5,
    rms_norm_eps=1e-5,
    layers=(2, 15, 27),
    draft_vocab_size=8192,
    own_head=True,
)


def num_trained(cell: Cell) -> int:
    train = config_of_paths({"target.model": "x", **cell.settings}).train
    with torch.device("meta"):
        draft = make_draft(SMOLLM2)
    return sum(
        each.numel() for each in prepare(draft.to_empty(device="cpu"), train, seed=0).parameters() if each.requires_grad
    )


def test_lora_has_as_many_weights_as_what_it_stands_beside() -> None:
    cells = {cell.method: cell for cell in brought("math")}
    for method, beside in (("lora", "eda"), ("lora_best", "best")):
        assert num_trained(cells[method]) == pytest.approx(num_trained(cells[beside]), rel=0.005)


def test_cells_that_a_goal_compares_differ_in_what_is_trained_alone() -> None:
    cells = {cell.method: cell.settings for cell in brought("math")}
    differing = {
        name
        for name in cells["best"].keys() | cells["lora_best"].keys()
        if cells["best"].get(name) != cells["lora_best"].get(name)
    }
    assert differing == {
        "train.method",
        "train.lora_rank",
        "train.private_width_fraction",
        "train.train_attention",
    }
    assert len({cell.name for cell in [*brought("math"), *brought_seeds("math")]}) == 9 + 8


def cell(length: float) -> dict[str, Any]:
    return {"acceptance_length": length, "tasks": {"gsm8k": {}}}


def test_the_summary_names_what_the_goals_name() -> None:
    found = {
        "math-training-free-none-s0": cell(2.0),
        "math-best-selfgen-s0": cell(4.0),
        "math-best-selfgen-s1": cell(4.2),
        "math-lora_best-selfgen-s0": cell(3.2),
        "math-lora_best-selfgen-s1": cell(4.2),
    }
    rows = summary(found, {"math-best-selfgen-s0": cell(3.2)}, {"math": 4.1})
    assert rows["math.recovered"] == pytest.approx(4.0 / 4.1, abs=1e-4)
    assert rows["math.eagle3_over_eagle1"] == 1.25
    assert rows["math.best_over_lora_equal_bytes"] == 1.25
    assert rows["math.best_over_lora_equal_bytes.seeds"] == [1.25, 1.0]
    assert rows["math.best_over_imported"] == 2.0
    assert "math.best_over_full_ft" not in rows
    text = table(found, {}, rows)
    assert "| EDA, `best` | 4.000 | - |" in text
    assert "| `math.recovered` | 0.95 | 0.9756 | met |" in text
    assert "| `math.best_over_full_ft` | 1 | - | - |" in text
