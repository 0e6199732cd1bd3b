"""What shapes a request's distribution, in the words of vLLM's `SamplingParams`; their meaning is the same."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from eda_service.decoding.request import SamplingParams


def vllm_shaping(params: SamplingParams, vocab_size: int) -> dict[str, Any]:
    """Keyword arguments for vLLM; it has no list of suppressed tokens, so it gets all the others.

    Args:
        params: Of the request, which suppresses nothing at its beginning only: vLLM cannot do that.
        vocab_size: Of the target.
    """
    assert not params.begin_suppress_token_ids, "refused when the model is loaded"
    suppressed = params.suppress_token_ids
    return {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": max(0, params.top_k),
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logit_bias": dict(params.logit_bias) or None,
        "allowed_token_ids": _all_but(suppressed, vocab_size) if suppressed else None,
    }


@lru_cache(maxsize=8)
def _all_but(suppressed: frozenset[int], vocab_size: int) -> list[int]:
    """The other tokens; one list for all requests that suppress the same, as it has an entry for nearly every token."""
    return [each for each in range(vocab_size) if each not in suppressed]
