"""Results of a prefill or a round for one request: they update its state and become its output.

Shapes: B requests of a group, P padded prompt length, L verified tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from eda_service.decoding.live import LiveRequest
from eda_service.decoding.logprobs import score_prompt, score_rows
from eda_service.decoding.request import StepOutput
from eda_service.decoding.rounds import RowResult
from eda_service.targets.states import TargetStates

_NOT_FINITE = "the target gave non-finite logits"


@dataclass
class StepOutputs:
    """Applies the results of prefills and rounds to the requests of an engine.

    Attributes:
        drafts: Whether the engine has a draft, which will read the verified positions.
        capture_features: Whether the target's states are handed out when a request ends.
    """

    drafts: bool
    capture_features: bool

    def of_prefill(self, request: LiveRequest, states: TargetStates, first: int, finite: bool) -> StepOutput:
        """Apply one request's prefill and its first token."""
        if not finite:
            return StepOutput(request.request_id, [], "error", request.stats, _NOT_FINITE)
        length = len(request.prompt_ids)
        request.consume(1)
        request.num_cached = length
        if self.drafts and request.params.speculate:
            # The draft reads the prompt when it first drafts; where speculation does not pay, that is never.
            request.hold_back([*request.prompt_ids[1:], first], states.draft_in[:length], keep=False)
        else:
            request.pending_start = length - 1
            request.hold_back([first], states.draft_in[length - 1 : length], keep=False)
        if self.capture_features:
            request.captured.append(states[:length].each(Tensor.clone))
        if request.num_left == 0:
            return _output(request, [], "length")
        emitted, reason = request.accept([first])
        return _output(request, emitted, reason)

    def of_round(self, request: LiveRequest, result: RowResult, depth: int) -> StepOutput:
        """Apply one row's result of a round that drafted at most `depth` tokens."""
        if not result.finite:
            return StepOutput(request.request_id, [], "error", request.stats, _NOT_FINITE)
        emitted, reason = request.accept(result.token_ids)
        request.stats.count_round(result.num_proposed, len(emitted), depth if result.num_proposed else 0)
        states = _states_before(result, len(emitted))
        if self.drafts:
            request.hold_back(emitted, states.draft_in, keep=depth == 0 and request.params.speculate)
        request.num_cached += len(emitted)
        if self.capture_features:
            request.captured.append(states.each(Tensor.clone))
        output = _output(request, emitted, reason)
        output.num_accepted = len(emitted) - 1
        output.logprobs = None if result.logprobs is None else result.logprobs[: len(emitted)]
        return output


def add_logprobs(
    group: list[LiveRequest],
    outputs: Sequence[StepOutput],
    first_ids: list[int],
    logits_B1V: Tensor,
    head_in_BPD: Tensor,
    head: Callable[[Tensor], Tensor],
) -> None:
    """Score the first tokens and the prompts of requests that ask for it."""
    scored = score_rows(group, logits_B1V, [[0]] * len(group), [[first] for first in first_ids])
    for i, (request, output) in enumerate(zip(group, outputs, strict=True)):
        found = scored[i]
        output.logprobs = None if found is None else found[: len(output.new_token_ids)]
        if request.params.score_prompt:
            output.prompt_logprobs = score_prompt(request, head_in_BPD[i], head)


def _states_before(result: RowResult, count: int) -> TargetStates:
    """Return the states of the positions before the emitted tokens (count, ..); for a chain, and for some
    trees, they are a slice.
    """
    nodes = result.nodes[:count]
    return result.states[:count] if nodes[-1] == count - 1 else result.states[nodes]


def _output(request: LiveRequest, emitted: list[int], reason: str | None) -> StepOutput:
    states = TargetStates.joined(request.captured) if reason is not None and request.captured else None
    return StepOutput(request.request_id, emitted, reason, request.stats, states=states)
