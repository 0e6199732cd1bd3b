"""Prompts of the serving benchmarks: sums of the kind the math pack was made for, from the package index only."""

from __future__ import annotations

from typing import Any

from benchmarks.workloads import GENERATED_MATH
from eda_service.config.job import DatasetSpec
from eda_service.selfgen.prompts import load_prompts

NUM_PROMPTS = 64


def sums() -> list[list[dict[str, Any]]]:
    """Return the messages of each prompt."""
    found = load_prompts(DatasetSpec(source=GENERATED_MATH, num_prompts=NUM_PROMPTS), seed=3)
    return [[dict(message) for message in prompt.messages] for prompt in found]
