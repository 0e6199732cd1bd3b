"""The protocol of an engine that runs a target: answers, their states, and the target's embedding and head.

A given text (for example a data set's answer) is read by a request whose prompt is the whole text and that asks for one
more token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from eda_service.decoding.request import SamplingParams
from eda_service.targets.ends import TargetEnds
from eda_service.targets.states import TargetStates

READ = SamplingParams(max_new_tokens=1)
"""Parameters of a request whose prompt is a whole text, which is read for its states."""


@dataclass(frozen=True)
class AnswerRequest:
    """A prompt to answer.

    Attributes:
        prompt_ids: Token ids.
        params: Sampling parameters of the answer.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams


@dataclass(frozen=True)
class Answer:
    """The result of a request.

    Attributes:
        token_ids: Token ids of the answer, a stop token included.
        finish_reason: `stop`, `length` or `error`.
        states: States of prompt and answer except the last token, if they were asked for.
        error: Reason that there is no answer; None if there is one.
    """

    token_ids: list[int]
    finish_reason: str
    states: TargetStates | None = None
    error: str | None = None

    @property
    def has_stopped(self) -> bool:
        """Whether the answer ended with a stop token."""
        return self.finish_reason == "stop"


class TargetEngine(Protocol):
    """An engine with a target that answers requests."""

    @property
    def ends(self) -> TargetEnds:
        """The target's metadata, embedding and head."""

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
            requests: Requests by id, in the order in which they are begun.
            batch_size: Number of requests decoded together.
            max_tokens: Largest sum of prompt and answer tokens of a request; a longer request ends as an error.
            captures: Layers whose states are kept beside the head's input; empty: only the head's input; None: no
                states.
            on_answer: Function called after each request with the number of requests that have ended.

        Returns:
            An answer for each request. A request that cannot be answered has an error and does not end the others.
        """


def with_seeds(params: SamplingParams, prompts: Sequence[Sequence[int]]) -> dict[str, AnswerRequest]:
    """Make requests `0`, `1`, .., of which request i has seed i."""
    return {str(i): AnswerRequest(ids, replace(params, seed=i)) for i, ids in enumerate(prompts)}
