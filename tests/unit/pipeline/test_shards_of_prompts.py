"""Which prompt lands in which shard, and prompts that are answered several times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from eda_service.config.job import AdaptConfig, Answers, SelfGenConfig
from eda_service.errors import DatasetInvalidError
from eda_service.pipeline.generate import shards_of
from eda_service.pipeline.prepare import check_rendered, write_prompt_file
from eda_service.selfgen.prompts import Prompt
from eda_service.targets.loader import Target

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


def asked(directory: Path, config: SelfGenConfig) -> list[list[str]]:
    return [[row["id"] for row in json.loads(shard["prompts"])] for shard in shards_of(directory, config)]


def test_a_prompt_may_be_answered_several_times(tmp_path: Path) -> None:
    write_prompt_file(
        tmp_path / "prompts.jsonl", [Prompt(f"p{n}", [{"role": "user", "content": str(n)}]) for n in range(3)]
    )
    assert asked(tmp_path, SelfGenConfig(shard_size=4)) == [["p0", "p1", "p2"]]
    several = SelfGenConfig(shard_size=4, answers_per_prompt=3)
    assert asked(tmp_path, several) == [["p0", "p1", "p2", "p0#2"], ["p1#2", "p2#2", "p0#3", "p1#3"], ["p2#3"]]


def test_tools_go_with_a_prompt_into_its_shard(tmp_path: Path) -> None:
    prompt = Prompt("p", [{"role": "user", "content": "q"}], tools=TOOLS, template_kwargs={"x": True})
    write_prompt_file(tmp_path / "prompts.jsonl", [prompt])
    (shard,) = shards_of(tmp_path, SelfGenConfig())
    assert [Prompt(**row) for row in json.loads(shard["prompts"])] == [prompt]


def test_prompts_that_the_template_refuses_are_told_before_anything_is_generated(tiny_target: Target) -> None:
    good = [Prompt(f"g{n}", [{"role": "user", "content": "q"}]) for n in range(9)]
    bad = [Prompt(f"b{n}", good[0].messages, tools=TOOLS) for n in range(2)]
    config = AdaptConfig.model_validate({"target": {"model": "x"}, "selfgen": {"max_error_fraction": 0.1}})
    check_rendered(config, tiny_target, [*good, bad[0]], [*good[:1], *bad])
    with pytest.raises(
        DatasetInvalidError, match=r"2 of 11 prompts .* 10% may be .* b0: .* leaves out the tools"
    ) as all_:
        check_rendered(config, tiny_target, [*good, *bad], good)
    with pytest.raises(DatasetInvalidError, match="2 of 2 held-out prompts") as held:
        check_rendered(config, tiny_target, good, bad)
    assert (all_.value.param, held.value.param) == ("dataset", "eval_dataset")


def test_a_data_set_has_one_answer_to_a_prompt() -> None:
    with pytest.raises(ValidationError, match="set it to 1"):
        SelfGenConfig(answers=Answers.DATASET, answers_per_prompt=2)
