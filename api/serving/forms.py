"""The two shapes an answer takes: chat (`message`, `delta`) and text (`text`), whole and in chunks.

Choices are plain dicts: one is made per round and answer, and a model per chunk would cost more than the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from api.serving.choice import Piece, Scored
from api.serving.schemas import ChatCompletion, FinishReason, TextCompletion
from api.serving.text import Offsets
from api.serving.token_text import TokenText

_LEAST_LOGPROB = -9999.0  # OpenAI's value for "very unlikely"


class AnswerForm(Protocol):
    """How one call's answers are written."""

    id_prefix: str
    whole: type[ChatCompletion | TextCompletion]
    chunk_object: str

    def opening(self, index: int) -> dict[str, Any] | None:
        """The chunk an answer's stream opens with, if any."""

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """A piece as a chunk's choice."""

    def choice(self, index: int, text: str, scored: list[Scored], reason: FinishReason) -> dict[str, Any]:
        """A whole answer as a choice."""


class ChatForm:
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

    def opening(self, index: int) -> dict[str, Any]:
        """Says who speaks."""
        return {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """A piece as a chunk's choice."""
        return {
            "index": index,
            "delta": {"content": piece.text} if piece.text or piece.scored else {},
            "logprobs": self._logprobs(piece.scored) if piece.scored else None,
            "finish_reason": piece.finish_reason,
            **_spans(piece),
        }

    def choice(self, index: int, text: str, scored: list[Scored], reason: FinishReason) -> dict[str, Any]:
        """A whole answer as a choice."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(scored) if self._with_logprobs else None,
            "finish_reason": reason,
        }

    def _logprobs(self, scored: Sequence[Scored]) -> dict[str, Any]:
        content = []
        for token_id, score in scored:
            assert score is not None  # only an echoed prompt has tokens without
            top = [self._entry(each, logprob) for each, logprob in score.top]
            content.append({**self._entry(token_id, score.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        text, raw = self._token_text.of(token_id)
        return {"token": text, "logprob": max(logprob, _LEAST_LOGPROB), "bytes": list(raw)}


class TextForm:
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

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """A piece as a chunk's choice."""
        return {
            "index": index,
            "text": piece.text,
            "logprobs": self._logprobs(index, piece.scored) if piece.scored else None,
            "finish_reason": piece.finish_reason,
            **_spans(piece),
        }

    def choice(self, index: int, text: str, scored: list[Scored], reason: FinishReason) -> dict[str, Any]:
        """A whole answer as a choice."""
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, scored) if self._with_logprobs else None,
            "finish_reason": reason,
        }

    def _logprobs(self, index: int, scored: Sequence[Scored]) -> dict[str, Any]:
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


def _spans(piece: Piece) -> dict[str, Any]:
    """Where a piece's text comes from, in calls that ask."""
    return {"spans": [asdict(span) for span in piece.spans]} if piece.spans else {}
