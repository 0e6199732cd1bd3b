"""Presets: each is a valid config; `paper_7b` has the shape of Table 4; merging is deep and copies."""

from __future__ import annotations

from typing import Any

import pytest

from eda_service.config.job import AdaptConfig
from eda_service.config.overrides import merge
from eda_service.config.presets import on_preset, preset
from eda_service.errors import InputError

NAMES = ("demo", "paper", "paper_7b", "8b", "70b", "235b", "best")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_a_valid_config(name: str) -> None:
    config = AdaptConfig.model_validate(merge(preset(name), {"target": {"model": "org/model"}}))
    assert config.train.method == "eda"


def test_an_unknown_preset_lists_what_there_is() -> None:
    with pytest.raises(
        InputError,
        match=r"no preset 'papre'; did you mean 'paper' or 'paper_7b'\?; "
        "there are 235b, 70b, 8b, best, demo, paper, paper_7b",
    ) as caught:
        preset("papre")
    assert caught.value.param == "preset"


def test_the_paper_s_settings() -> None:
    settings = preset("paper")
    assert settings["dataset"]["num_prompts"] == 68_000
    assert settings["train"] == {
        "method": "eda",
        "mix": "softmax",
        "private_width_fraction": 0.25,
        "train_fc": True,
        "epochs": 20,
        "batch_size": 16,
        "learning_rate": 4e-5,
    }
    assert preset("paper_7b")["train"] == settings["train"] | {"private_width_fraction": 0.5}
    best = preset("best")
    assert best["selection"]["method"] == "all"
    assert best["train"] == settings["train"] | {
        "private_width_fraction": 1.0,
        "train_attention": True,
        "loss": {"unroll_steps": 3},
    }


def test_the_demo_evaluates_on_templates_it_does_not_train_on() -> None:
    settings = preset("demo")
    assert settings["dataset"]["source"].endswith("templates=0-79")
    assert settings["eval_dataset"]["source"].endswith("templates=80-99")


def test_a_preset_is_a_fresh_copy() -> None:
    preset("paper")["train"]["epochs"] = 1
    assert preset("paper")["train"]["epochs"] == 20
    assert preset("paper_7b")["train"]["epochs"] == 20


def test_merge_by_hand() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 3, "c": [1, 2]}
    merged = merge(base, {"a": {"y": 5}, "b": {"z": 1}, "c": [9], "d": 4})
    assert merged == {"a": {"x": 1, "y": 5}, "b": {"z": 1}, "c": [9], "d": 4}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3, "c": [1, 2]}


@pytest.mark.parametrize(
    ("overrides", "held_out"),
    [
        ({}, "reasoning-gym:gsm_symbolic?templates=80-99"),
        ({"dataset": {"num_prompts": 99}}, "reasoning-gym:gsm_symbolic?templates=80-99"),
        ({"dataset": {"source": "mine.jsonl"}}, None),
        ({"dataset": {"source": "mine.jsonl"}, "eval_dataset": {"source": "held.jsonl"}}, "held.jsonl"),
        ({"dataset": {"source": "mine.jsonl"}, "eval_dataset": None}, None),
        ({"eval_dataset": {"source": "held.jsonl"}}, "held.jsonl"),
    ],
)
def test_data_of_one_s_own_brings_its_own_held_out_split(overrides: dict[str, Any], held_out: str | None) -> None:
    found = on_preset(preset("demo"), overrides).get("eval_dataset")
    assert (None if found is None else found["source"]) == held_out


@pytest.mark.parametrize(
    ("overrides", "num_prompts"),
    [
        ({"eval_dataset": {"source": "held.jsonl"}}, 16),
        ({"eval_dataset": {"source": "held.jsonl"}, "evaluation": {"num_prompts": 40}}, 40),
        ({"eval_dataset": {"source": "held.jsonl"}, "evaluation": {"num_prompts": 2}}, 8),
        ({"eval_dataset": {"source": "held.jsonl", "num_prompts": 99}}, 99),
    ],
)
def test_as_many_held_out_prompts_are_read_as_are_measured(overrides: dict[str, Any], num_prompts: int) -> None:
    assert on_preset({}, overrides)["eval_dataset"]["num_prompts"] == num_prompts
