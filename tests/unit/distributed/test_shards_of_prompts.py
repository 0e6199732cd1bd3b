"""Which prompt lands in which shard, and prompts that are answered several times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from eda_service.config import Answers, SelfGenConfig
from eda_service.distributed.prepare import write_prompt_file
from eda_service.distributed.stage_generate import shards_of
from eda_service.selfgen.prompts import Prompt


def asked(directory: Path, config: SelfGenConfig) -> list[list[str]]:
    return [[row["id"] for row in json.loads(shard["prompts"])] for shard in shards_of(directory, config)]


def test_a_prompt_may_be_answered_several_times(tmp_path: Path) -> None:
    write_prompt_file(
        tmp_path / "prompts.jsonl", [Prompt(f"p{n}", [{"role": "user", "content": str(n)}]) for n in range(3)]
    )
    assert asked(tmp_path, SelfGenConfig(shard_size=4)) == [["p0", "p1", "p2"]]
    several = SelfGenConfig(shard_size=4, answers_per_prompt=3)
    assert asked(tmp_path, several) == [["p0", "p1", "p2", "p0#2"], ["p1#2", "p2#2", "p0#3", "p1#3"], ["p2#3"]]


def test_a_data_set_has_one_answer_to_a_prompt() -> None:
    with pytest.raises(ValidationError, match="set it to 1"):
        SelfGenConfig(answers=Answers.DATASET, answers_per_prompt=2)
