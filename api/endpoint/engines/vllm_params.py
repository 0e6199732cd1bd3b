"""One request's decoding parameters in vLLM's form, and the parameters that vLLM answers wrongly.

Two refusals are about vLLM's CPU build (0.32), measured in docs/howto/export.md: with a draft its sampling does not
follow the target's distribution, and a seed can end its engine. Two are vLLM's own on any machine: with a draft it
takes neither `min_p` nor `logit_bias`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from eda_service.decoding.request import SamplingParams, TokenLogprobs
from eda_service.decoding.vllm_shaping import vllm_shaping
from eda_service.errors import UnsupportedParameterError


def check_supported(params: SamplingParams, *, on_cpu: bool, drafts: bool) -> None:
    """Refuse parameters that vLLM would answer wrongly.

    Raises:
        UnsupportedParameterError: Sampling with a draft or with a seed, on a CPU; `min_p` or `logit_bias` with a draft.
    """
    if drafts:
        _refuse_beside_a_draft(params)
    if not on_cpu or params.temperature == 0:
        return
    if drafts:
        raise UnsupportedParameterError(
            f"temperature is {params.temperature:g} (left out it is the model's own, else 1), and this deployment "
            "drafts in vLLM's CPU build, which samples wrongly with a draft; set temperature to 0, or deploy without a "
            "draft, on a GPU or with engine eda",
            param="temperature",
        )
    if params.seed is not None:
        raise UnsupportedParameterError(
            "seed can end the engine in vLLM's CPU build when temperature is above 0; leave it out or set temperature "
            "to 0",
            param="seed",
        )


def _refuse_beside_a_draft(params: SamplingParams) -> None:
    for name, is_used in (
        ("min_p", params.min_p > 0 and params.temperature > 0),
        ("logit_bias", bool(params.logit_bias)),
    ):
        if is_used:
            raise UnsupportedParameterError(
                f"{name} is not taken by vLLM with a draft, which this deployment has; leave it out or set it to a "
                "value that changes nothing, or deploy without a draft or with engine eda",
                param=name,
            )


def vllm_params(params: SamplingParams, stop_token_ids: Collection[int], vocab_size: int) -> Any:
    """Return vLLM's `SamplingParams`, set to return new token ids as they come and no text.

    Args:
        params: Parameters of the request.
        stop_token_ids: Stop token ids of the target.
        vocab_size: Vocabulary size of the target.
    """
    from vllm import SamplingParams as Made
    from vllm.sampling_params import RequestOutputKind

    own: Collection[int] = () if params.ignore_eos else stop_token_ids
    return Made(
        **vllm_shaping(params, vocab_size),
        seed=None if params.temperature == 0 else params.seed,
        max_tokens=max(1, params.max_new_tokens),  # it reads no prompt without giving a token
        min_tokens=params.min_new_tokens,
        stop_token_ids=sorted({*own, *params.stop_token_ids}),
        ignore_eos=params.ignore_eos,
        logprobs=params.num_logprobs,
        prompt_logprobs=params.num_logprobs if params.score_prompt else None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def token_logprobs(token_id: int, found: dict[int, Any], num_top: int) -> TokenLogprobs:
    """Convert vLLM's scores of one position, `{id: Logprob}`, which contain the token's own."""
    ranked = sorted(found.items(), key=lambda item: -item[1].logprob)[:num_top]
    return TokenLogprobs(found[token_id].logprob, [(each, score.logprob) for each, score in ranked])
