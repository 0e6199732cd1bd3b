"""One answer while it is decoded: the engine's outputs become pieces of text with their tokens' log-probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.endpoint.protocol.schemas import FinishReason
from api.endpoint.protocol.text import TextStream
from eda_service.decoding.request import RequestStats, StepOutput, TokenLogprobs

Scored = tuple[int, TokenLogprobs | None]


@dataclass(frozen=True)
class Span:
    """Text of neighbouring tokens that come from the same model.

    Attributes:
        text: Text of these tokens; a character that several tokens write belongs to the last of them.
        accepted: Whether the draft proposed the tokens and the target accepted them; otherwise they are the target's
            own.
    """

    text: str
    accepted: bool


def joined(spans: Iterable[Span]) -> list[Span]:
    """Join neighbouring spans that come from the same model."""
    return [
        Span("".join(span.text for span in run), accepted)
        for accepted, run in itertools.groupby(spans, key=lambda span: span.accepted)
    ]


@dataclass
class Piece:
    """The next part of an answer.

    Attributes:
        text: Text of this part; may be empty.
        scored: Tokens with their scores, where the request asks for them; a prompt's first token has none.
        finish_reason: Reason why the answer ended; set on the last piece only.
        spans: Text of this piece divided by the model that its tokens come from, where the request asks for that.
    """

    text: str
    scored: list[Scored] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    spans: list[Span] = field(default_factory=list)

    def then(self, other: Piece) -> Piece:
        """Join this piece and the one that follows it."""
        return Piece(
            self.text + other.text, self.scored + other.scored, other.finish_reason, joined([*self.spans, *other.spans])
        )


@dataclass(frozen=True)
class Echo:
    """A prompt that is repeated at the start of its answer."""

    text: str
    token_ids: list[int]


class Choice:
    """Follows one answer.

    Args:
        tokenizer: Tokenizer of the target.
        stops: Stop strings.
        num_prompt_tokens: Number of tokens in the answer's prompt.
        echo: Prompt to repeat at the start; None: no echo.
        with_spans: Whether pieces say which text the draft proposed.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str],
        *,
        num_prompt_tokens: int,
        echo: Echo | None = None,
        with_spans: bool = False,
    ) -> None:
        after = () if echo is None else echo.token_ids
        self._text = TextStream(tokenizer, stops, after=after)
        self._one_by_one, self._echo = bool(stops) or with_spans, echo
        self._with_spans, self._newest_accepted = with_spans, False
        self._held: list[Scored] = []
        self._spans: list[Span] = []
        self.stats = RequestStats(num_prompt_tokens=num_prompt_tokens)
        self.num_tokens = 0
        self.ended = False

    def take(self, output: StepOutput) -> Piece | None:
        """Take an output and return its text; None where no text is certain. Counts tokens up to the answer's last."""
        self.stats = output.stats
        text = self._begin(output)
        ids, reason = output.new_token_ids, output.finish_reason
        ends_with_stop = reason == "stop" and bool(ids)
        text += self._read(ids[:-1] if ends_with_stop else ids, output)
        if ends_with_stop and not self._text.stopped:
            self._count(ids[-1:], output, len(ids) - 1)
        if reason is not None and not self._text.stopped:
            text += self._marked(self._text.finish(), self._newest_accepted)
        self.ended = reason is not None or self._text.stopped
        if not text and not self.ended:
            return None
        scored, self._held = self._held, []
        spans, self._spans = self._spans, []
        ending: FinishReason = "length" if reason == "length" and not self._text.stopped else "stop"
        return Piece(text, scored, ending if self.ended else None, spans)

    def _begin(self, output: StepOutput) -> str:
        """Return the prompt once, where the request echoes it."""
        if self._echo is None:
            return ""
        echo, self._echo = self._echo, None
        if output.prompt_logprobs is not None:
            self._held += zip(echo.token_ids, [None, *output.prompt_logprobs], strict=True)
        return echo.text

    def _read(self, ids: list[int], output: StepOutput) -> str:
        """Decode new tokens; with stop strings or spans one by one, so that tokens after a stop are left out."""
        if not self._one_by_one:
            self._count(ids, output, 0)
            return self._text.push(ids)
        text = ""
        for place in range(len(ids)):
            self._count(ids[place : place + 1], output, place)
            self._newest_accepted = place < output.num_accepted
            text += self._marked(self._text.push(ids[place : place + 1]), self._newest_accepted)
            if self._text.stopped:
                break
        return text

    def _marked(self, text: str, accepted: bool) -> str:
        """Record which model a text comes from, if the request asks for that; returns the text."""
        if self._with_spans and text:
            self._spans = joined([*self._spans, Span(text, accepted)])
        return text

    def _count(self, ids: list[int], output: StepOutput, start: int) -> None:
        self.num_tokens += len(ids)
        if output.logprobs is not None:
            self._held += zip(ids, output.logprobs[start : start + len(ids)], strict=True)
