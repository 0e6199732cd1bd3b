"""T=0 losslessness: speculative output against autoregressive output, token by token.

In float32 with packed weights they are equal. In bfloat16, kernels of different shapes round differently. So a first
difference counts as a near tie if the target itself, run once over the common prefix, gives the two tokens logits
within the rounding bound of its dtype; any other difference is a defect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from eda_service.decoding.request import SamplingParams
from eda_service.decoding.shaping import History, shape
from eda_service.engines.engine import READ, AnswerRequest, TargetEngine
from eda_service.measured_rows import LosslessCheck

_ROUNDING_STEPS = 4


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """Return the index of the first differing token, or None if the sequences are equal."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return i
    return None if len(left) == len(right) else min(len(left), len(right))


@torch.inference_mode()
def tie_gap(engine: TargetEngine, history: History, left: int, right: int) -> tuple[float, float]:
    """Return the difference of the logits of two tokens after a request's prompt and answer so far (shaped as the
    request asks for it), and the largest difference that rounding explains; (infinity, 0) if the engine has no states.
    """
    prefix, target = [*history.prompt_ids, *history.answer_ids], engine.ends
    request = {"prefix": AnswerRequest(prefix, READ)}
    states = engine.answer(request, batch_size=1, max_tokens=len(prefix) + 1, captures=())["prefix"].states
    if states is None:
        return math.inf, 0.0
    logits_11V = target.lm_head.logits(states.head_in[None, len(prefix) - 1 : len(prefix)]).float()
    logits_V = shape([history], logits_11V)[0, 0]
    stretch = max(history.params.repetition_penalty, 1 / history.params.repetition_penalty)
    bound = stretch * _ROUNDING_STEPS * torch.finfo(target.dtype).eps * float(logits_11V.abs().max())
    return abs(float(logits_V[left] - logits_V[right])), bound


def check_lossless(
    engine: TargetEngine,
    prompts: Sequence[Sequence[int]],
    plain: Sequence[list[int]],
    speculative: Sequence[list[int]],
    params: SamplingParams | None = None,
) -> LosslessCheck:
    """Compare answers pair by pair.

    Args:
        engine: Engine that runs the target.
        prompts: Token ids of each prompt.
        plain: Answers without a draft.
        speculative: Answers with a draft.
        params: Sampling parameters of all requests; None: greedy, the target's own logits.
    """
    params = params or SamplingParams()
    identical = different = 0
    gaps: list[float] = []
    for ids, left, right in zip(prompts, plain, speculative, strict=True):
        at = first_difference(left, right)
        if at is None:
            identical += 1
            continue
        gap, bound = math.inf, 0.0
        if at < min(len(left), len(right)):
            history = History(params, ids, engine.ends.stop_token_ids, answer_ids=left[:at], num_new_tokens=at)
            gap, bound = tie_gap(engine, history, left[at], right[at])
        if gap <= bound:
            gaps.append(gap)
        else:
            different += 1
    return LosslessCheck(
        num_prompts=len(prompts),
        num_identical=identical,
        num_near_ties=len(gaps),
        num_different=different,
        largest_tie_gap=max(gaps, default=0.0),
        dtype=str(engine.ends.dtype).removeprefix("torch."),
    )
