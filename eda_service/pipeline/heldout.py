"""The held-out prompts of a job, rendered for its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eda_service.config.job import AdaptConfig
from eda_service.pipeline.prepare import HELDOUT_FILE, read_prompt_file
from eda_service.records import Stage
from eda_service.selfgen.prompts import Prompt
from eda_service.selfgen.refused import render_all
from eda_service.storage.runs.run import RunDir


@dataclass(frozen=True)
class HeldOut:
    """Prompts to evaluate on, and the token ids of each."""

    prompts: list[Prompt]
    token_ids: list[list[int]]


def held_out(run: RunDir, config: AdaptConfig, tokenizer: Any) -> HeldOut:
    """Return the first `evaluation.num_prompts` prompts that the target's template accepts and that are
    short enough.
    """
    prompts = read_prompt_file(run.stage_dir(Stage.GENERATE) / HELDOUT_FILE)
    rendered, refused = render_all(tokenizer, prompts)
    if refused:
        said = f"{len(refused)} held-out prompts are skipped: {refused[0].sample_id}: {refused[0].reason}"
        run.event("rows_skipped", said, stage=Stage.EVALUATE, level="warning")
    most, count = config.selfgen.max_prompt_tokens, config.evaluation.num_prompts
    fitting = [each for each in prompts if each.id in rendered and len(rendered[each.id]) <= most][:count]
    return HeldOut(fitting, [rendered[each.id] for each in fitting])
