"""What a stage asks of whoever runs the target: answers, the states that belong to them, and the target's two ends.

A text that is given (a data set's answer, say) is read by a request whose prompt is the whole text and that asks for
one token more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from eda_service.decoding.request import SamplingParams
from eda_service.targets.ends import TargetEnds
from eda_service.targets.states import TargetStates

READ = SamplingParams(max_new_tokens=1)
"""Of a request whose prompt is a whole text, which is read for its states."""


@dataclass(frozen=True)
class AnswerRequest:
    """A prompt to answer.

    Attributes:
        prompt_ids: Token ids.
        params: How it is answered.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        token_ids: The answer's, a stop token included.
        finish_reason: `stop`, `length` or `error`.
        states: Of prompt and answer but for the last token, where they were asked for.
        error: Why there is no answer.
    """

    token_ids: list[int]
    finish_reason: str
    states: TargetStates | None = None
    error: str | None = None

    @property
    def has_stopped(self) -> bool:
        """Whether it ended by itself."""
        return self.finish_reason == "stop"


class TargetEngine(Protocol):
    """A target that answers."""

    @property
    def ends(self) -> TargetEnds:
        """What is known of it, its embedding and its head."""

    def answer(
        self,
        requests: Mapping[str, AnswerRequest],
        *,
        batch_size: int,
        max_tokens: int,
        captures: Sequence[int] | None = None,
        on_answer: Callable[[int], None] | None = None,
    ) -> dict[str, Answer]:
        """Answer all requests.

        Args:
            requests: By id, in the order in which they are begun.
            batch_size: Requests decoded together.
            max_tokens: Prompt plus answer of any request; one that could be longer ends as an error.
            captures: Layers of which states are kept beside what the head reads; empty: that alone; None: no states.
            on_answer: Called with the number of requests that have ended, at each of them.

        Returns:
            An answer for each request. A request that cannot be answered has an error and does not end the others.
        """


def with_seeds(params: SamplingParams, prompts: Sequence[Sequence[int]]) -> dict[str, AnswerRequest]:
    """Requests `0`, `1`, .., of which request i has seed i."""
    return {str(i): AnswerRequest(ids, replace(params, seed=i)) for i, ids in enumerate(prompts)}
