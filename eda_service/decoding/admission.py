"""Admission: the requests that an engine takes, and the groups in which it prefills them."""

from __future__ import annotations

from collections.abc import Sequence

from eda_service.decoding.live import LiveRequest
from eda_service.decoding.request import SamplingParams
from eda_service.errors import ContextLengthError, RequestError

_PREFILL_TOKENS = 2048
_LEAST_FILLED = 0.85


def check_request(prompt_ids: Sequence[int], params: SamplingParams, *, vocab_size: int, max_tokens: int) -> None:
    """Refuse what an engine cannot decode.

    Raises:
        RequestError: Empty prompt, a token out of vocabulary, or every token suppressed.
        ContextLengthError: The request needs more tokens than the context holds.
    """
    if not prompt_ids:
        raise RequestError("the prompt is empty; send at least one token", param="prompt")
    if min(prompt_ids) < 0 or max(prompt_ids) >= vocab_size:
        raise RequestError(f"a prompt token lies outside 0..{vocab_size - 1}", param="prompt")
    strange = [token for token in params.stop_token_ids if not 0 <= token < vocab_size]
    if strange:
        raise RequestError(
            f"stop token {strange[0]} lies outside 0..{vocab_size - 1}; give ids of this model's tokenizer",
            param="stop",
        )
    for name, named in (
        ("logit_bias", {token for token, _ in params.logit_bias}),
        ("suppress_tokens", params.suppress_token_ids),
    ):
        beyond = [token for token in named if not 0 <= token < vocab_size]
        if beyond:
            raise RequestError(
                f"{name} names token {beyond[0]}, outside 0..{vocab_size - 1}; give ids of this model's tokenizer",
                param=name,
            )
    if len(params.suppress_token_ids | params.begin_suppress_token_ids) >= vocab_size:
        raise RequestError(
            f"suppress_tokens names all {vocab_size} tokens, which leaves none to answer with; leave some out",
            param="suppress_tokens",
        )
    if len(prompt_ids) + params.max_new_tokens > max_tokens:
        raise ContextLengthError(
            f"{len(prompt_ids)} prompt tokens and max_tokens {params.max_new_tokens} exceed the context of "
            f"{max_tokens}; shorten the prompt or lower max_tokens",
            param="max_tokens",
        )


def prefill_groups(arrived: Sequence[LiveRequest]) -> list[list[LiveRequest]]:
    """Group requests of similar prompt length, so that a group needs little padding and fits the tokens
    of one prefill.
    """
    groups: list[list[LiveRequest]] = []
    tokens = 0
    for request in sorted(arrived, key=lambda each: len(each.prompt_ids)):
        width = len(request.prompt_ids)
        tokens += width
        padded = width * (len(groups[-1]) + 1) if groups else 0
        if groups and padded <= min(_PREFILL_TOKENS, tokens / _LEAST_FILLED):
            groups[-1].append(request)
        else:
            groups.append([request])
            tokens = width
    return groups
