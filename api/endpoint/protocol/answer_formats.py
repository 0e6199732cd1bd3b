"""The two shapes an answer takes: chat (`message`, `delta`) and text (`text`), whole and in chunks.

Choices are typed dicts: one is made per round and answer, and a model per chunk would cost more than the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, Protocol, TypedDict

from api.endpoint.choice import Piece, Scored
from api.endpoint.protocol.schemas import ChatCompletion, FinishReason, TextCompletion
from api.endpoint.protocol.text import Offsets
from api.endpoint.protocol.token_text import TokenText

_LEAST_LOGPROB = -9999.0  # OpenAI's value for "very unlikely"


class TokenScore(TypedDict):
    """A token of a chat's answer; `top_logprobs` stands beside those that were chosen."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: NotRequired[list[TokenScore]]


class ChatScores(TypedDict):
    """Chat's `logprobs`."""

    content: list[TokenScore]
    refusal: None


class TextScores(TypedDict):
    """Text's `logprobs`: lists of one length, an entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class SpanBody(TypedDict):
    """A `Span`."""

    text: str
    accepted: bool


class _Spans(TypedDict, total=False):
    spans: list[SpanBody]


class ChoiceBody(TypedDict):
    """What all choices have; `spans` are there in chunks of calls that ask."""

    index: int
    finish_reason: FinishReason | None
    spans: NotRequired[list[SpanBody]]


class Delta(TypedDict, total=False):
    """What a chunk adds."""

    role: Literal["assistant"]
    content: str


class ChatChunk(ChoiceBody):
    """A chunk's choice of a chat."""

    delta: Delta
    logprobs: ChatScores | None


class ChatMessage(TypedDict):
    """A whole answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(ChoiceBody):
    """A whole choice of a chat."""

    message: ChatMessage
    logprobs: ChatScores | None


class TextChoice(ChoiceBody):
    """A choice of a text, whole or in a chunk."""

    text: str
    logprobs: TextScores | None


class AnswerFormat(Protocol):
    """How one call's answers are written."""

    id_prefix: str
    whole: type[ChatCompletion | TextCompletion]
    chunk_object: str

    def opening(self, index: int) -> ChoiceBody | None:
        """The chunk an answer's stream opens with, if any."""

    def chunk(self, index: int, piece: Piece) -> ChoiceBody:
        """A piece as a chunk's choice."""

    def choice(self, index: int, text: str, scored: list[Scored], reason: FinishReason) -> ChoiceBody:
        """A whole answer as a choice."""


class ChatFormat:
    """`/v1/chat/completions`.

    Args:
        token_text: Of the target's tokens.
        with_logprobs: The request asks for them.
    """

    id_prefix = "chatcmpl"
    whole: type[ChatCompletion | TextCompletion] = ChatCompletion
    chunk_object = "chat.completion.chunk"

    def __init__(self, token_text: TokenText, *, with_logprobs: bool) -> None:
        self._token_text, self._with_logprobs = token_text, with_logprobs

    def opening(self, index: int) -> ChatChunk:
        """Says who speaks."""
        return {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }

    def chunk(self, index: int, piece: Piece) -> ChatChunk:
        """A piece as a chunk's choice."""
        return {
            "index": index,
            "delta": {"content": piece.text} if piece.text or piece.scored else {},
            "logprobs": self._logprobs(piece.scored) if piece.scored else None,
            "finish_reason": piece.finish_reason,
            **_spans(piece),
        }

    def choice(self, index: int, text: str, scored: list[Scored], reason: FinishReason) -> ChatChoice:
        """A whole answer as a choice."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(scored) if self._with_logprobs else None,
            "finish_reason": reason,
        }

    def _logprobs(self, scored: Sequence[Scored]) -> ChatScores:
        content: list[TokenScore] = []
        for token_id, score in scored:
            assert score is not None  # only an echoed prompt has tokens without
            top = [self._entry(each, logprob) for each, logprob in score.top]
            content.append({**self._entry(token_id, score.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> TokenScore:
        text, raw = self._token_text.of(token_id)
        return {"token": text, "logprob": max(logprob, _LEAST_LOGPROB), "bytes": list(raw)}


class TextFormat:
    """`/v1/completions`.

    Args:
        token_text: Of the target's tokens.
        with_logprobs: The request asks for them.
    """

    id_prefix = "cmpl"
    whole: type[ChatCompletion | TextCompletion] = TextCompletion
    chunk_object = "text_completion"

    def __init__(self, token_text: TokenText, *, with_logprobs: bool) -> None:
        self._token_text, self._with_logprobs = token_text, with_logprobs
        self._offsets: dict[int, Offsets] = {}

    def opening(self, index: int) -> None:
        """A text's stream opens with its text."""

    def chunk(self, index: int, piece: Piece) -> TextChoice:
        """A piece as a chunk's choice."""
        return {
            "index": index,
            "text": piece.text,
            "logprobs": self._logprobs(index, piece.scored) if piece.scored else None,
            "finish_reason": piece.finish_reason,
            **_spans(piece),
        }

    def choice(self, index: int, text: str, scored: list[Scored], reason: FinishReason) -> TextChoice:
        """A whole answer as a choice."""
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, scored) if self._with_logprobs else None,
            "finish_reason": reason,
        }

    def _logprobs(self, index: int, scored: Sequence[Scored]) -> TextScores:
        offset = self._offsets.setdefault(index, Offsets(self._token_text.tokenizer))
        tokens, offsets, own, tops = [], [], [], []
        for token_id, score in scored:
            tokens.append(self._token_text.of(token_id)[0])
            offsets.append(offset.before(token_id))
            own.append(None if score is None else max(score.logprob, _LEAST_LOGPROB))
            tops.append(None if score is None else self._top(token_id, score.logprob, score.top))
        return {"tokens": tokens, "token_logprobs": own, "top_logprobs": tops, "text_offset": offsets}

    def _top(self, token_id: int, logprob: float, top: Sequence[tuple[int, float]]) -> dict[str, float]:
        """By text; of tokens with one text the most likely counts. The token itself is always among them."""
        found: dict[str, float] = {}
        for each, value in (*top, (token_id, logprob)):
            found.setdefault(self._token_text.of(each)[0], max(value, _LEAST_LOGPROB))
        return found


def _spans(piece: Piece) -> _Spans:
    """Where a piece's text comes from, in calls that ask."""
    return {"spans": [{"text": span.text, "accepted": span.accepted} for span in piece.spans]} if piece.spans else {}
