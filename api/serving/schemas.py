"""Bodies of the OpenAI-compatible endpoint. A parameter that is not listed is refused by name, never ignored.

Field names and defaults follow OpenAI's API reference for `/v1/chat/completions` and `/v1/completions`; `metrics`
follows vLLM's `metrics.speculative_decoding`.
"""

from __future__ import annotations

import time
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from eda_service.config import Config
from eda_service.decoding.request import RequestStats
from eda_service.jobstore.ids import ulid

MAX_STOPS = 16
Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class TextPart(Config):
    """One part of a message in OpenAI's list form; only text is understood."""

    type: Literal["text"]
    text: Text


class Message(Config):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text | list[TextPart]

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(Config):
    """Options of a streamed answer."""

    include_usage: bool = Field(False, description="end with a chunk that carries `usage`")


class GenerationRequest(Config):
    """What both endpoints take. Values that change nothing (n=1, penalties of 0) are accepted, others are refused."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="answer cap; default: what the context holds")
    temperature: float = Field(1.0, ge=0.0, le=2.0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="the same seed gives the same answer")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: Annotated[str, StringConstraints(max_length=512)] | None = Field(None, description="accepted, not used")
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None

    @property
    def stops(self) -> list[str]:
        """Stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def cap(self) -> int | None:
        """The answer cap the caller gave, if any."""
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(GenerationRequest):
    """Body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000, description="OpenAI's newer name of max_tokens")
    logprobs: Literal[False] | None = None

    @property
    def cap(self) -> int | None:
        """The answer cap under either name."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(GenerationRequest):
    """Body of `POST /v1/completions`: one prompt, as text or as token ids."""

    prompt: Text | Annotated[list[int], Field(min_length=1, max_length=1_000_000)]
    max_tokens: int | None = Field(16, ge=1, le=1_000_000, description="answer cap (OpenAI's default)")
    echo: Literal[False] = False
    logprobs: None = None


class Usage(BaseModel):
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SpeculativeDecoding(BaseModel):
    """What speculation did for one request; vLLM's field names."""

    mean_acceptance_length: float | None = Field(description="tokens per round, the target's own included")
    draft_acceptance_rate: float | None = Field(description="accepted / proposed")
    acceptance_histogram: list[int] = Field(description="rounds by number of accepted draft tokens")
    num_spec_steps: int = Field(description="rounds; where drafting does not pay, a round proposes nothing")
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int = Field(description="the most draft tokens a round proposes")

    @classmethod
    def of(cls, stats: RequestStats, num_spec_tokens: int) -> SpeculativeDecoding:
        """From the engine's counts."""
        rounds, proposed = stats.num_rounds, stats.num_draft_tokens
        return cls(
            mean_acceptance_length=round(1 + stats.num_accepted_tokens / rounds, 4) if rounds else None,
            draft_acceptance_rate=round(stats.num_accepted_tokens / proposed, 4) if proposed else None,
            acceptance_histogram=stats.accepted_histogram,
            num_spec_steps=rounds,
            num_accepted_draft_tokens=stats.num_accepted_tokens,
            num_draft_tokens=proposed,
            num_spec_tokens=num_spec_tokens,
        )


class Metrics(BaseModel):
    """Measurements of one request."""

    speculative_decoding: SpeculativeDecoding


FinishReason = Literal["stop", "length"]


class AssistantMessage(BaseModel):
    """The whole answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """The only choice."""

    index: int = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: FinishReason


class TextChoice(BaseModel):
    """The only choice of a text completion; in a stream the reason is None until the end."""

    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: FinishReason | None


class Delta(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class DeltaChoice(BaseModel):
    """The only choice of a chunk."""

    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class _Answer(BaseModel):
    id: str
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str
    usage: Usage | None = None
    metrics: Metrics | None = None


class ChatCompletion(_Answer):
    """Answer of `/v1/chat/completions`."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class ChatChunk(_Answer):
    """One event of a streamed chat answer."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[DeltaChoice]


class TextCompletion(_Answer):
    """Answer, or one event of a streamed answer, of `/v1/completions`."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]


class ModelCard(BaseModel):
    """One served pair."""

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
    adapter_bytes: int = Field(description="of its LoRA adapter in the stacks; 0 where it is the base or merged")
    pack_bytes: int = Field(description="of its pack: private expert, gate, fc if trained, rows of the draft's head")
    pack: str | None
    loaded_at: int
    num_running: int = Field(description="requests that wait or run on its newest version")


class ReplicaMemory(BaseModel):
    """Memory of one replica."""

    base_bytes: int = Field(description="weights of the base targets and base drafts, held once")
    variants: list[VariantMemory]


def new_id(prefix: str) -> str:
    """A fresh answer id."""
    return f"{prefix}-{ulid().lower()}"
