"""vLLM's outputs split into the engine steps that made them.

Each output is one step: the first is the prefill's, and all tokens but one of a later step are accepted drafts. Tokens
that vLLM cut after a stop token or at the answer cap are not counted, as everywhere in this project; vLLM's own
counters include them. Two steps that reach a busy event loop as one output are told apart only where they are longer
than one round can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from api.endpoint.engines.vllm_params import token_logprobs
from eda_service.decoding.request import RequestStats, SamplingParams, StepOutput, TokenLogprobs

_REASONS = {"abort": "cancelled", "repetition": "stop"}
_LEAST_S = 1e-9  # a prefill that took no time would look like none


def steps_of(output: Any, stats: RequestStats, params: SamplingParams, num_draft_tokens: int) -> Iterator[StepOutput]:
    """Split one output of vLLM into engine steps; `stats` grows with each.

    Args:
        output: vLLM's `RequestOutput` with the new tokens.
        stats: Statistics of the request so far.
        params: Sampling parameters of the request.
        num_draft_tokens: K, the number of drafted tokens per round.
    """
    answer = output.outputs[0]
    token_ids = [] if params.max_new_tokens == 0 else list(answer.token_ids)
    scored = None if params.num_logprobs is None else list(answer.logprobs or ())
    reason = _REASONS.get(answer.finish_reason, answer.finish_reason)
    is_first = stats.prefill_s == 0.0
    if is_first and answer.token_ids:
        _time(stats, output.metrics)
    start = 0
    for size in _sizes(len(token_ids), num_draft_tokens, is_first=is_first):
        ids, end = token_ids[start : start + size], start + size
        is_prefill = is_first and start == 0
        if not is_prefill and ids:
            stats.count_round(num_draft_tokens, len(ids))
        stats.num_new_tokens += len(ids)
        logprobs = None
        if scored is not None:
            found = zip(ids, scored[start:end], strict=True)
            logprobs = [token_logprobs(token_id, each, params.num_logprobs or 0) for token_id, each in found]
        yield StepOutput(
            output.request_id,
            ids,
            reason if end >= len(token_ids) else None,
            stats,
            num_accepted=0 if is_prefill or not ids else len(ids) - 1,
            logprobs=logprobs,
            prompt_logprobs=_prompt_logprobs(output, params) if is_prefill else None,
        )
        start = end


def _sizes(num_tokens: int, num_draft_tokens: int, *, is_first: bool) -> list[int]:
    """Return the lengths of the steps behind this many tokens: the prefill's one, then whole rounds."""
    if is_first:
        rest = max(0, num_tokens - 1)
        return [min(1, num_tokens), *(_sizes(rest, num_draft_tokens, is_first=False) if rest else ())]
    longest = num_draft_tokens + 1
    whole, rest = divmod(num_tokens, longest)
    return [longest] * whole + ([rest] if rest or not whole else [])


def _time(stats: RequestStats, metrics: Any) -> None:
    """Set queue and prefill times by vLLM's own clock."""
    stats.queue_s = max(0.0, metrics.scheduled_ts - metrics.queued_ts)
    stats.prefill_s = max(_LEAST_S, metrics.first_token_ts - metrics.scheduled_ts)


def _prompt_logprobs(output: Any, params: SamplingParams) -> list[TokenLogprobs] | None:
    """Return the scores of every prompt token but the first, for requests that ask for them."""
    if not params.score_prompt or output.prompt_logprobs is None:
        return None
    places: Sequence[Any] = list(output.prompt_logprobs)[1:]
    pairs = zip(output.prompt_token_ids[1:], places, strict=True)
    return [token_logprobs(token_id, each, params.num_logprobs or 0) for token_id, each in pairs]
