"""Answers of the OpenAI-compatible endpoint; bodies of its requests are in `requests`.

Field names follow OpenAI's API reference; `metrics` follows vLLM's `metrics.speculative_decoding`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from eda_service.decoding.request import RequestStats
from eda_service.ids import ulid

FinishReason = Literal["stop", "length"]


class PromptTokensDetails(BaseModel):
    """OpenAI's object; no prompt is cached between requests."""

    cached_tokens: int = 0


class Usage(BaseModel):
    """Token counts of one call: each prompt once, all answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()

    @classmethod
    def of(cls, num_prompt_tokens: int, num_new_tokens: int) -> Usage:
        """From the two counts."""
        return cls(
            prompt_tokens=num_prompt_tokens,
            completion_tokens=num_new_tokens,
            total_tokens=num_prompt_tokens + num_new_tokens,
        )


class SpeculativeDecoding(BaseModel):
    """What speculation did for one call, over all its answers; vLLM's field names."""

    mean_acceptance_length: float | None = Field(description="tokens per round, the target's own included")
    draft_acceptance_rate: float | None = Field(description="accepted / proposed")
    acceptance_histogram: list[int] = Field(description="rounds by number of accepted draft tokens")
    num_spec_steps: int = Field(description="rounds; where drafting does not pay, a round proposes nothing")
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int = Field(description="the most draft tokens a round proposes")

    @classmethod
    def of(cls, answers: Sequence[RequestStats], num_spec_tokens: int) -> SpeculativeDecoding:
        """From the engine's counts."""
        rounds = sum(stats.num_rounds for stats in answers)
        proposed = sum(stats.num_draft_tokens for stats in answers)
        accepted = sum(stats.num_accepted_tokens for stats in answers)
        histogram = [0] * max((len(stats.accepted_histogram) for stats in answers), default=0)
        for stats in answers:
            for count, num_rounds in enumerate(stats.accepted_histogram):
                histogram[count] += num_rounds
        return cls(
            mean_acceptance_length=round(1 + accepted / rounds, 4) if rounds else None,
            draft_acceptance_rate=round(accepted / proposed, 4) if proposed else None,
            acceptance_histogram=histogram,
            num_spec_steps=rounds,
            num_accepted_draft_tokens=accepted,
            num_draft_tokens=proposed,
            num_spec_tokens=num_spec_tokens,
        )


class CallMetrics(BaseModel):
    """Measurements of one call."""

    speculative_decoding: SpeculativeDecoding


class _Completion(BaseModel):
    id: str
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str
    system_fingerprint: str
    choices: list[dict[str, Any]] = Field(description="made by `answer_formats`")
    usage: Usage
    metrics: CallMetrics


class ChatCompletion(_Completion):
    """Answer of `/v1/chat/completions`."""

    object: Literal["chat.completion"] = "chat.completion"


class TextCompletion(_Completion):
    """Answer of `/v1/completions`."""

    object: Literal["text_completion"] = "text_completion"


class ModelCard(BaseModel):
    """One served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["eda"] = "eda"
    base_draft: str | None
    pack: str | None
    max_model_len: int


class ModelList(BaseModel):
    """Everything that is served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class VariantMemory(BaseModel):
    """What one served model takes beside the base it shares."""

    name: str
    uid: str = Field("", description="of its deployment")
    adapter_bytes: int = Field(description="of its LoRA adapter in the stacks; 0 where it is the base or merged")
    pack_bytes: int = Field(description="of its pack: private expert, gate, fc if trained, rows of the draft's head")
    base_draft: str | None
    pack: str | None
    loaded_at: int
    num_running: int = Field(description="requests that wait or run on its newest version")


class VariantFailure(BaseModel):
    """A version that could not be loaded; what was served under its name before still is."""

    name: str
    uid: str = Field("", description="of its deployment")
    base_draft: str | None
    pack: str | None
    reason: str
    attempt: int = Field(0, description="which attempt to load it")
    code: str = Field("load_failed", description="stable word for the reason")
    may_pass: bool = Field(False, description="the machine was at fault, so another attempt may go well")


class ReplicaMemory(BaseModel):
    """What one replica has loaded."""

    base_bytes: int = Field(description="weights of the base targets and base drafts, held once")
    variants: list[VariantMemory]
    failed: list[VariantFailure] = []


def new_id(prefix: str) -> str:
    """A fresh answer id."""
    return f"{prefix}-{ulid().lower()}"
