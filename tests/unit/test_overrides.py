"""Overrides become one nested dict, by one rule for `python -m jobs...` and for `eda`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eda_service.config.overrides import at_paths, merge, parse_assignments
from eda_service.errors import InputError
from jobs.common import build_config, parser


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["train.epochs=3"], {"train": {"epochs": 3}}),
        (["train.epochs=3", "train.loss.unroll_steps=2"], {"train": {"epochs": 3, "loss": {"unroll_steps": 2}}}),
        (["train.epochs=3", "train.epochs=4"], {"train": {"epochs": 4}}),
        (["dataset.source=a=b"], {"dataset": {"source": "a=b"}}),
        (["eval_dataset=null", 'evaluation={"num_prompts": 8}', "evaluation.threads=1"],
         {"eval_dataset": None, "evaluation": {"num_prompts": 8, "threads": 1}}),
    ],
)  # fmt: skip
def test_assignments_nest(texts: list[str], expected: dict[str, Any]) -> None:
    assert parse_assignments(texts) == expected


@pytest.mark.parametrize("texts", [["train"], ["=3"], ["train..epochs=3"], [".train=3"], ["a.=3"], ["a=1", "a.b=2"]])
def test_what_is_no_assignment_is_refused_by_jobs_too(texts: list[str]) -> None:
    with pytest.raises(InputError, match=f"--set '{texts[-1]}'") as refused:
        parse_assignments(texts)
    assert refused.value.param == "set"
    arguments = parser("test").parse_args(["--target", "smollm2-135m-instruct", *(f"--set={text}" for text in texts)])
    with pytest.raises(InputError, match=f"--set '{texts[-1]}'"):
        build_config(arguments)


def test_later_values_win_and_others_stay() -> None:
    below = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merge(below, at_paths({"a.c": [3], "d": {"e": 5}})) == {"a": {"b": 1, "c": [3]}, "d": {"e": 5}}
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


@pytest.mark.parametrize("text", ["[1, 2]", "null", "{", "[" * 100_000, '"train"'])
def test_a_config_file_that_holds_no_object_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"--config .*/config\.json: ") as refused:
        build_config(parser("test").parse_args(["--config", str(path)]))
    assert refused.value.param == "config"
