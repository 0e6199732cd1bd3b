"""What the service answers about the samples of a job. Unknown fields are ignored."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from eda_service.client.answers.answers import Answer


class Sample(Answer):
    """One self-generated sample; `messages` and `answer` are None where a run has kept no texts."""

    id: str
    sample_id: str
    kept: bool
    sample_value: float | None = None
    num_prompt_tokens: int | None = None
    num_answer_tokens: int = 0
    messages: list[dict[str, Any]] | None = None
    answer: str | None = None


class SamplePage(Answer):
    """A page of samples, the most valuable first; `value_name` says what their values are, `note` what the run does not
    have.
    """

    samples: tuple[Sample, ...] = Field(alias="data")
    has_more: bool = False
    last_id: str | None = None
    num_kept: int = 0
    num_dropped: int = 0
    threshold: float | None = None
    value_name: str = "distance"
    note: str | None = None
