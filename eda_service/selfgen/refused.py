"""Prompts that a target's chat template refuses, or whose tools it leaves out: each is skipped with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eda_service.errors import EdaError
from eda_service.records import SkippedRow
from eda_service.selfgen.prompts import Prompt


def render_all(tokenizer: Any, prompts: Iterable[Prompt]) -> tuple[dict[str, list[int]], list[SkippedRow]]:
    """Render prompts; return token ids by prompt id, in the prompts' order, and the refused prompts with
    their reasons.
    """
    rendered: dict[str, list[int]] = {}
    refused: list[SkippedRow] = []
    for prompt in prompts:
        try:
            rendered[prompt.id] = prompt.token_ids(tokenizer)
        except EdaError as error:
            refused.append(SkippedRow(sample_id=prompt.id, reason=error.message))
    return rendered, refused
