"""Server-sent events (HTML Living Standard, 9.2.6), and where a stream goes on after a break.

Lines are split here and not by `httpx.Response.iter_lines`, which also breaks at characters that JSON leaves as they
are (U+2028 and the like).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from pydantic import ValidationError

from eda_service.client.answers.answers import JobEvent
from eda_service.client.errors import ApiError, UnexpectedAnswerError

MEDIA_TYPE = "text/event-stream"
MAX_EVENT_BYTES = 1 << 20

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SentEvent:
    """One dispatched event: its id (the last one seen), its type, its data lines joined by newlines."""

    id: str
    type: str
    data: str


class SseDecoder:
    """Bytes of one response in, events out; what is not ended by an empty line is never dispatched."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_first = True
        self._id, self._type = "", ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[SentEvent]:
        """Take the next bytes; returns the events that they complete.

        Raises:
            UnexpectedAnswerError: One line is longer than an event may be.
        """
        buffer = self._rest + chunk
        if self._is_first and len(buffer) >= len(_BOM):
            buffer, self._is_first = buffer.removeprefix(_BOM), False
        # A carriage return at the very end may be half of a line end: it waits for the next chunk.
        held = b"\r" if buffer.endswith(b"\r") else b""
        *lines, self._rest = _LINE_END.split(buffer.removesuffix(held))
        self._rest += held
        if len(self._rest) > MAX_EVENT_BYTES:
            raise UnexpectedAnswerError(f"a line of the event stream is longer than {MAX_EVENT_BYTES} bytes")
        found = (self._line(line.decode("utf-8", errors="replace")) for line in lines)
        return [event for event in found if event is not None]

    def _line(self, line: str) -> SentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None  # everything else is a comment or a field we have no use for

    def _dispatch(self) -> SentEvent | None:
        kind, data = self._type or "message", "\n".join(self._data)
        has_data = bool(self._data)
        self._type, self._data = "", []
        return SentEvent(self._id, kind, data) if has_data else None


class EventStream:
    """A job's events over as many connections as it takes.

    Args:
        after: Id of the last event that the caller has.
    """

    def __init__(self, after: str | None) -> None:
        self.last_id = after
        self._decoder = SseDecoder()

    def connected(self, content_type: str) -> None:
        """A response begins; what was left of the one before is dropped, the service sends it again.

        Raises:
            UnexpectedAnswerError: It is no event stream.
        """
        if content_type.partition(";")[0].strip().lower() != MEDIA_TYPE:
            raise UnexpectedAnswerError(
                f"the service sends no event stream but {content_type[:64] or 'nothing'}; it may be older than this "
                "client: list the events instead"
            )
        self._decoder = SseDecoder()

    def feed(self, chunk: bytes) -> list[JobEvent]:
        """Take the next bytes; returns the job's events that they complete.

        Raises:
            ApiError: The service has ended the stream, as its key was revoked or has expired.
            UnexpectedAnswerError: An event's data is none of ours.
        """
        return [self.seen(self._event(sent)) for sent in self._decoder.feed(chunk)]

    def seen(self, event: JobEvent) -> JobEvent:
        """Remember an event, so that the stream goes on after it."""
        self.last_id = event.id
        return event

    @staticmethod
    def _event(sent: SentEvent) -> JobEvent:
        if sent.type == "error":
            raise _error_of(sent)
        try:
            return JobEvent.model_validate_json(sent.data)
        except ValidationError as error:
            raise UnexpectedAnswerError(f"event {sent.id[:64]!r} of type {sent.type[:64]!r} is no job event") from error


def _error_of(sent: SentEvent) -> ApiError | UnexpectedAnswerError:
    """What an event that ends a stream says; only a dead key does so."""
    try:
        body = dict(json.loads(sent.data)["error"])
        return ApiError(
            str(body["message"]), param=body.get("param"), status=401, code=str(body["code"]), request_id=None
        )
    except (ValueError, KeyError, TypeError):
        return UnexpectedAnswerError("the event stream ended with an error that this client cannot read")
