"""Bodies of requests to the OpenAI-compatible endpoint. Fields unknown here and to `unused_parameters` are refused.

Field names, defaults and bounds follow OpenAI's API reference; `top_k`, `min_p`, `repetition_penalty`,
`stop_token_ids`, `ignore_eos`, `min_tokens` and `continuous_usage_stats` follow vLLM; `suppress_tokens` follows
transformers; `draft` and `draft_tokens` are ours. Imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import (
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticUndefined, ValidationError

from api.endpoint.protocol import unused_parameters
from api.endpoint.protocol.messages import Messages, Text
from api.endpoint.protocol.template_fields import TemplateFields
from eda_service.config.base import Config
from eda_service.errors import RequestError

NO_DRAFT = "none"
BASE_ALONE = "base"
MAX_STOPS = 16
MAX_PROMPTS = 64
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_NAMED_TOKENS = 1024
_MAX_TOKENS = 1_000_000


def _said(message: str) -> WrapValidator:
    """Report one error at the field itself instead of one per member of a union."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("value", message) from error  # type: ignore[arg-type]  # wants a literal

    return WrapValidator(validate)


TokenIds = Annotated[list[StrictInt], Field(min_length=1, max_length=_MAX_TOKENS)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Stop = Annotated[
    StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None,
    _said(f"give a string of 1 to 256 characters, or up to {MAX_STOPS} of them"),
]
Prompt = Annotated[
    Text
    | TokenIds
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)],
    _said(f"give a string, a list of token ids, or a list of up to {MAX_PROMPTS} of either"),
]


Bias = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}$")],
        Annotated[StrictFloat, Field(ge=-100.0, le=100.0)],
    ]
    | None,
    Field(max_length=MAX_NAMED_TOKENS),
    _said(f"give up to {MAX_NAMED_TOKENS} token ids, each with a bias from -100 to 100"),
]


def _without_nulls(body: Any, fields: Mapping[str, FieldInfo]) -> Any:
    """Remove nulls of fields whose default is not null: a null there means that the field is not given."""
    if not isinstance(body, dict):
        return body
    return {name: value for name, value in body.items() if value is not None or not _has_value(fields.get(name))}


def _has_value(field: FieldInfo | None) -> bool:
    """Whether a field has a default and null is not a value of it."""
    return field is not None and field.default not in (None, PydanticUndefined) and not _may_be_null(field)


def _may_be_null(field: FieldInfo) -> bool:
    return type(None) in get_args(field.annotation)


class StreamOptions(Config):
    """Options of a streamed answer."""

    include_usage: StrictBool = Field(False, description="end with a chunk that carries `usage`")
    continuous_usage_stats: StrictBool = Field(False, description="`usage` in every chunk")
    draft_tokens: StrictBool = Field(
        False, description="ours: in every chunk, which text the draft proposed (`spans` of a choice) and `metrics`"
    )
    include_obfuscation: StrictBool | None = Field(None, description="accepted; nothing is padded")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: Any) -> Any:
        return _without_nulls(body, cls.model_fields)


class GenerationRequest(Config):
    """The fields that both endpoints take."""

    ignorable: ClassVar[Any] = {}

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    max_tokens: StrictInt | None = Field(None, ge=1, le=_MAX_TOKENS, description="default: what the context holds")
    temperature: StrictFloat | None = Field(
        None, ge=0.0, le=2.0, description="0 is greedy; default: the model's own (generation_config.json), else 1"
    )
    top_p: StrictFloat | None = Field(None, gt=0.0, le=1.0, description="default: the model's own, else 1")
    top_k: StrictInt | None = Field(
        None, ge=-1, lt=2**31, description="0 and -1: all tokens; default: the model's own, else 0"
    )
    min_p: StrictFloat | None = Field(None, ge=0.0, le=1.0, description="default: the model's own, else 0")
    repetition_penalty: StrictFloat | None = Field(
        None, gt=0.0, description="over prompt and answer; default: the model's own, else 1"
    )
    presence_penalty: StrictFloat | None = Field(
        None, ge=-2.0, le=2.0, description="over the answer; default: the model's own, else 0"
    )
    frequency_penalty: StrictFloat | None = Field(
        None, ge=-2.0, le=2.0, description="over the answer, by count; default: the model's own, else 0"
    )
    logit_bias: Bias = Field(None, description="token id to what is added to its logit, -100 to 100")
    suppress_tokens: Annotated[list[StrictInt], Field(max_length=MAX_NAMED_TOKENS)] | None = Field(
        None, description="ids of tokens that are never chosen; default: the model's own, else none"
    )
    n: StrictInt | None = Field(None, ge=1, le=MAX_CHOICES, description="answers per prompt; default 1")
    seed: StrictInt | None = Field(None, ge=-(2**63), lt=2**63, description="the same seed gives the same answer")
    stop: Stop = None
    stop_token_ids: Annotated[list[StrictInt], Field(max_length=MAX_STOPS)] | None = None
    ignore_eos: StrictBool = Field(False, description="the model's own stop tokens do not end the answer")
    min_tokens: StrictInt = Field(0, ge=0, le=_MAX_TOKENS, description="no stop token before so many tokens")
    draft: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None,
        description="ours: what drafts for this request: none, base (the base draft without a pack), or name@version "
        "of a pack that is served on the same base; default: the deployment's own",
    )
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_unused(cls, body: Any) -> Any:
        return _without_nulls(unused_parameters.without_unused(body, cls.model_fields, cls.ignorable), cls.model_fields)

    @property
    def stops(self) -> list[str]:
        """Stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def num_answers(self) -> int:
        """Number of answers per prompt."""
        return self.n or 1

    @property
    def cap(self) -> int | None:
        """Largest number of answer tokens that the request allows; None: the request sets no limit."""
        return self.max_tokens

    @property
    def num_prompts(self) -> int:
        """Number of prompts in this call."""
        return 1

    @property
    def num_logprobs(self) -> int | None:
        """Number of most likely tokens to report beside each token's own; None: report no log-probabilities."""
        return None

    @property
    def options(self) -> StreamOptions:
        """Options of the stream."""
        return self.stream_options or StreamOptions()


class ChatRequest(TemplateFields, GenerationRequest):
    """Body of `POST /v1/chat/completions`."""

    ignorable: ClassVar[Any] = unused_parameters.CHAT

    messages: Messages
    max_completion_tokens: StrictInt | None = Field(
        None, ge=1, le=_MAX_TOKENS, description="OpenAI's newer name of max_tokens"
    )
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
        return self

    @property
    def cap(self) -> int | None:
        """Largest number of answer tokens, from either of the two field names."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Number of most likely tokens to report, from `logprobs` and `top_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationRequest):
    """Body of `POST /v1/completions`: one prompt or several, as text or as token ids."""

    ignorable: ClassVar[Any] = unused_parameters.TEXT

    prompt: Prompt
    max_tokens: StrictInt | None = Field(16, ge=0, le=_MAX_TOKENS, description="answer cap (OpenAI's default)")
    echo: StrictBool | None = Field(None, description="the answer begins with the prompt")
    logprobs: StrictInt | None = Field(None, ge=0, le=5)

    @field_validator("logprobs", mode="before")
    @classmethod
    def _none_for_false(cls, value: Any) -> Any:
        """Convert false to null: in chat requests false means no log-probabilities."""
        return None if value is False else value

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts as a list."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]  # a list of ids: its first is one
        return self.prompt  # type: ignore[return-value]

    @property
    def num_prompts(self) -> int:
        """Number of prompts in this call."""
        return len(self.prompts)

    @property
    def num_logprobs(self) -> int | None:
        """Number of most likely tokens to report, from `logprobs`."""
        return self.logprobs
