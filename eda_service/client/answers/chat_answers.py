"""What the endpoint streams of an answer, read tolerantly: pieces of text, and what speculation did."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from eda_service.client.answers.answers import Answer
from eda_service.client.errors import ApiError, UnexpectedAnswerError
from eda_service.client.stream import MEDIA_TYPE, SseDecoder

_DONE = "[DONE]"


class Span(Answer):
    """A part of the text: what the draft proposed and the target accepted, or what is the target's own."""

    text: str
    accepted: bool = False


class Speculation(Answer):
    """What speculation did for an answer so far; None where there was no round yet."""

    mean_acceptance_length: float | None = Field(None, description="tokens a round, the target's own included")
    num_spec_steps: int = 0
    num_accepted_draft_tokens: int = 0
    num_draft_tokens: int = 0


class Usage(Answer):
    """Tokens of a whole call."""

    prompt_tokens: int
    completion_tokens: int


class ChatPiece(Answer):
    """What one chunk brings.

    Attributes:
        spans: Its text.
        finish_reason: `stop` or `length`, in the last one with text.
        speculation: Up to here.
        usage: In the last one.
    """

    spans: tuple[Span, ...] = ()
    finish_reason: str | None = None
    speculation: Speculation | None = None
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(span.text for span in self.spans)


class ChatStream:
    """The pieces of one answer, out of the bytes of one response."""

    def __init__(self) -> None:
        self._decoder = SseDecoder()
        self.is_connected, self.is_whole = False, False

    def connected(self, content_type: str) -> None:
        """A response begins.

        Raises:
            UnexpectedAnswerError: It is no event stream.
        """
        if content_type.partition(";")[0].strip().lower() != MEDIA_TYPE:
            raise UnexpectedAnswerError(
                f"the endpoint streams no answer but {content_type[:64] or 'nothing'}; is this the service's URL?"
            )
        self.is_connected = True

    def feed(self, chunk: bytes) -> Iterator[ChatPiece]:
        """Take the next bytes; gives the pieces that they complete.

        Raises:
            ApiError: The endpoint has ended the answer with an error.
            UnexpectedAnswerError: A chunk is none of an answer's.
        """
        for sent in self._decoder.feed(chunk):
            if sent.data == _DONE:
                self.is_whole = True
            elif not self.is_whole:
                yield _piece(sent.data)

    def ended(self, error: Exception | None = None) -> None:
        """The response is over.

        Args:
            error: What broke the connection.

        Raises:
            UnexpectedAnswerError: The answer is not: the service ended, or the connection broke.
        """
        if not self.is_whole:
            why = "" if error is None else f" ({type(error).__name__})"
            raise UnexpectedAnswerError(f"the answer broke off{why}; ask again") from error


def chat_body(
    model: str,
    messages: Iterable[Mapping[str, str]],
    *,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
) -> dict[str, Any]:
    """Body of a streamed `POST /v1/chat/completions` that says which text the draft proposed."""
    given = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    options = {"include_usage": True, "draft_tokens": True}
    body: dict[str, Any] = {"model": model, "messages": [dict(each) for each in messages]}
    body |= {"stream": True, "stream_options": options}
    return body | {name: value for name, value in given.items() if value is not None}


def _piece(data: str) -> ChatPiece:
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise _error(chunk["error"])
        choices: Sequence[Any] = chunk["choices"]
        first = choices[0] if choices else {}
        text = (first.get("delta") or {}).get("content") or ""
        return ChatPiece.model_validate(
            {
                "spans": first.get("spans") or ([{"text": text}] if text else []),
                "finish_reason": first.get("finish_reason"),
                "speculation": (chunk.get("metrics") or {}).get("speculative_decoding"),
                "usage": chunk.get("usage"),
            }
        )
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswerError(f"a chunk of the answer cannot be read: {data[:64]!r}") from error


def _error(body: Mapping[str, Any]) -> ApiError:
    """An error in the middle of an answer, where the status of the response was sent long ago."""
    return ApiError(
        str(body["message"]),
        param=body.get("param"),
        status=500,
        code=str(body.get("code") or "internal"),
        request_id=None,
    )
