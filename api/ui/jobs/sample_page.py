"""Content of the page of a job's samples: plain text, whatever form a message has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eda_service.formatting import value_word
from eda_service.storage.samples.samples import SamplePage

MOST_CHARACTERS = 2_000
"""Longest text on the page, in characters; the command line and the API show the whole text."""


@dataclass(frozen=True)
class TurnView:
    """One message."""

    role: str
    content: str


@dataclass(frozen=True)
class SampleView:
    """One sample.

    Attributes:
        asked: The last message of the prompt, shortened.
    """

    kept: bool
    sample_value: float | None
    num_answer_tokens: int
    messages: list[TurnView] | None
    answer: str | None
    asked: str


@dataclass(frozen=True)
class SamplesView:
    """One page of samples; fields without a line here are those of `SamplePage`."""

    samples: list[tuple[int, SampleView]]
    has_more: bool
    num_kept: int
    num_dropped: int
    threshold: float | None
    note: str | None
    value_word: str


def view_of(page: SamplePage) -> SamplesView:
    """Return a page of samples for the template."""
    shown = []
    for rank, sample in page.samples:
        messages = None if sample.messages is None else [_turn(each) for each in sample.messages]
        asked = " ".join(messages[-1].content.split()) if messages else ""
        shown.append(
            (
                rank,
                SampleView(
                    kept=sample.kept,
                    sample_value=sample.sample_value,
                    num_answer_tokens=sample.num_answer_tokens,
                    messages=messages,
                    answer=sample.answer,
                    asked=asked,
                ),
            )
        )
    word = value_word(page.value_name)
    return SamplesView(shown, page.has_more, page.num_kept, page.num_dropped, page.threshold, page.note, word)


def _turn(message: Mapping[str, Any]) -> TurnView:
    content = message.get("content")
    rest = {key: value for key, value in message.items() if key not in {"role", "content"}}
    text = content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)
    if rest:
        text = f"{text}\n{json.dumps(rest, ensure_ascii=False)}".strip()
    return TurnView(str(message.get("role", "")), text)
