"""A request's sampling parameters as those of vLLM's `SamplingParams` with the same meaning."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from eda_service.decoding.request import SamplingParams


def vllm_shaping(params: SamplingParams, vocab_size: int) -> dict[str, Any]:
    """Make keyword arguments for vLLM, which has no list of suppressed tokens and so gets the list of all allowed ones.

    Args:
        params: Parameters of the request. Tokens suppressed only at the beginning are not supported by vLLM.
        vocab_size: Size of the target's vocabulary.
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
    """Return the tokens that are not suppressed; requests that suppress the same share one list of nearly the
    vocabulary.
    """
    return [each for each in range(vocab_size) if each not in suppressed]
