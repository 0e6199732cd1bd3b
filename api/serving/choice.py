"""One answer on its way: the engine's outputs become pieces of text with the log-probabilities of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api.serving.schemas import FinishReason
from api.serving.text import TextStream
from eda_service.decoding.request import RequestStats, StepOutput, TokenLogprobs

Scored = tuple[int, TokenLogprobs | None]


@dataclass
class Piece:
    """Some more of an answer.

    Attributes:
        text: May be empty.
        scored: Tokens with their scores, where the request asks; a prompt's first token has none.
        finish_reason: With the last piece.
    """

    text: str
    scored: list[Scored] = field(default_factory=list)
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Echo:
    """A prompt that its answer begins with."""

    text: str
    token_ids: list[int]


class Choice:
    """Follows one answer.

    Args:
        tokenizer: The target's.
        stops: Stop strings.
        num_prompt_tokens: Of its prompt.
        echo: Prompt to begin with.
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[str], *, num_prompt_tokens: int, echo: Echo | None = None
    ) -> None:
        self._text, self._one_by_one, self._echo = TextStream(tokenizer, stops), bool(stops), echo
        self._held: list[Scored] = []
        self.stats = RequestStats(num_prompt_tokens=num_prompt_tokens)
        self.num_tokens = 0
        self.ended = False

    def take(self, output: StepOutput) -> Piece | None:
        """What an output adds; None where no text is certain yet. Counts tokens up to the one that ends the answer."""
        self.stats = output.stats
        text = self._begin(output)
        ids, reason = output.new_token_ids, output.finish_reason
        ends_with_stop = reason == "stop" and bool(ids)
        text += self._read(ids[:-1] if ends_with_stop else ids, output)
        if ends_with_stop and not self._text.stopped:
            self._count(ids[-1:], output, len(ids) - 1)
        if reason is not None and not self._text.stopped:
            text += self._text.finish()
        self.ended = reason is not None or self._text.stopped
        if not text and not self.ended:
            return None
        scored, self._held = self._held, []
        ending: FinishReason = "length" if reason == "length" and not self._text.stopped else "stop"
        return Piece(text, scored, ending if self.ended else None)

    def _begin(self, output: StepOutput) -> str:
        """The prompt, once, where the request echoes it."""
        if self._echo is None:
            return ""
        echo, self._echo = self._echo, None
        if output.prompt_logprobs is not None:
            self._held += zip(echo.token_ids, [None, *output.prompt_logprobs], strict=True)
        return echo.text

    def _read(self, ids: list[int], output: StepOutput) -> str:
        """Text of new tokens. With stop strings token by token: what follows the stop in the same round never was."""
        if not self._one_by_one:
            self._count(ids, output, 0)
            return self._text.push(ids)
        text = ""
        for place in range(len(ids)):
            self._count(ids[place : place + 1], output, place)
            text += self._text.push(ids[place : place + 1])
            if self._text.stopped:
                break
        return text

    def _count(self, ids: list[int], output: StepOutput, start: int) -> None:
        self.num_tokens += len(ids)
        if output.logprobs is not None:
            self._held += zip(ids, output.logprobs[start : start + len(ids)], strict=True)
