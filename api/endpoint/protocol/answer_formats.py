"""The two forms of an answer: chat (`message`, `delta`) and text (`text`), whole and in chunks.

Choices are typed dicts: one is made per round and answer, and a pydantic model per chunk would cost more time than the
chunk.
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
    """A token of a chat's answer; the most likely tokens at its position are in `top_logprobs`."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: NotRequired[list[TokenScore]]


class ChatScores(TypedDict):
    """The `logprobs` of a chat."""

    content: list[TokenScore]
    refusal: None


class TextScores(TypedDict):
    """The `logprobs` of a text: lists of equal length, with one entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class SpanBody(TypedDict):
    """A `Span` in an answer's body."""

    text: str
    accepted: bool


class _Spans(TypedDict, total=False):
    spans: list[SpanBody]


class ChoiceBody(TypedDict):
    """The fields of every choice; `spans` are present in chunks of calls that ask for them."""

    index: int
    finish_reason: FinishReason | None
    spans: NotRequired[list[SpanBody]]


class Delta(TypedDict, total=False):
    """The new part of a message in a chunk."""

    role: Literal["assistant"]
    content: str


class ChatChunk(ChoiceBody):
    """A choice in a chunk of a chat."""

    delta: Delta
    logprobs: ChatScores | None


class ChatMessage(TypedDict):
    """The message of a whole answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(ChoiceBody):
    """A choice of a whole chat answer."""

    message: ChatMessage
    logprobs: ChatScores | None


class TextChoice(ChoiceBody):
    """A choice of a text, whole or in a chunk."""

    text: str
    logprobs: TextScores | None


class AnswerFormat(Protocol):
    """Writes the answers of one call."""

    id_prefix: str
    whole: type[ChatCompletion | TextCompletion]
    chunk_object: str

    def opening(self, index: int) -> ChoiceBody | None:
        """Return the first chunk of an answer's stream; None: the stream begins with its text."""

    def chunk(self, index: int, piece: Piece) -> ChoiceBody:
        """Return a piece as a choice of a chunk."""

    def choice(self, index: int, text: str, scored: list[Scored], reason: FinishReason) -> ChoiceBody:
        """Return a whole answer as a choice."""


class ChatFormat:
    """Writes answers of `/v1/chat/completions`.

    Args:
        token_text: Text and bytes of the target's tokens.
        with_logprobs: Whether the request asks for log-probabilities.
    """

    id_prefix = "chatcmpl"
    whole: type[ChatCompletion | TextCompletion] = ChatCompletion
    chunk_object = "chat.completion.chunk"

    def __init__(self, token_text: TokenText, *, with_logprobs: bool) -> None:
        self._token_text, self._with_logprobs = token_text, with_logprobs

    def opening(self, index: int) -> ChatChunk:
        """Return the first chunk, which names the role."""
        return {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }

    def chunk(self, index: int, piece: Piece) -> ChatChunk:
        """Return a piece as a choice of a chunk."""
        return {
            "index": index,
            "delta": {"content": piece.text} if piece.text or piece.scored else {},
            "logprobs": self._logprobs(piece.scored) if piece.scored else None,
            "finish_reason": piece.finish_reason,
            **_spans(piece),
        }

    def choice(self, index: int, text: str, scored: list[Scored], reason: FinishReason) -> ChatChoice:
        """Return a whole answer as a choice."""
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
    """Writes answers of `/v1/completions`.

    Args:
        token_text: Text and bytes of the target's tokens.
        with_logprobs: Whether the request asks for log-probabilities.
    """

    id_prefix = "cmpl"
    whole: type[ChatCompletion | TextCompletion] = TextCompletion
    chunk_object = "text_completion"

    def __init__(self, token_text: TokenText, *, with_logprobs: bool) -> None:
        self._token_text, self._with_logprobs = token_text, with_logprobs
        self._offsets: dict[int, Offsets] = {}

    def opening(self, index: int) -> None:
        """Return None, because a text's stream begins with its text."""

    def chunk(self, index: int, piece: Piece) -> TextChoice:
        """Return a piece as a choice of a chunk."""
        return {
            "index": index,
            "text": piece.text,
            "logprobs": self._logprobs(index, piece.scored) if piece.scored else None,
            "finish_reason": piece.finish_reason,
            **_spans(piece),
        }

    def choice(self, index: int, text: str, scored: list[Scored], reason: FinishReason) -> TextChoice:
        """Return a whole answer as a choice."""
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
        """Return log-probabilities by text, the token's own included; of tokens of equal text the likeliest."""
        found: dict[str, float] = {}
        for each, value in (*top, (token_id, logprob)):
            found.setdefault(self._token_text.of(each)[0], max(value, _LEAST_LOGPROB))
        return found


def _spans(piece: Piece) -> _Spans:
    """Return the spans of a piece, in calls that ask for them."""
    return {"spans": [{"text": span.text, "accepted": span.accepted} for span in piece.spans]} if piece.spans else {}
