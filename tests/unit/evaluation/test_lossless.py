"""The lossless check: identical, near tie or different, by cases made to order.

Oracle of a near tie: transformers' logits after the common prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from eda_service.decoding.request import SamplingParams
from eda_service.decoding.shaping import History
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.lossless import check_lossless, first_difference, tie_gap
from eda_service.targets.decoder.slots import SlotCache
from eda_service.targets.head import InferenceHead, LmHead
from eda_service.targets.loader import Target

PROMPT = [30, 40, 50]


def near_tie(target: Target, prefix: list[int], left: int, right: int) -> bool:
    gap, bound = tie_gap(OwnEngine(target), History(SamplingParams(), prefix, frozenset()), left, right)
    return gap <= bound


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        ([], [], None),
        ([1, 2], [1, 2], None),
        ([1, 2], [1, 3], 1),
        ([4], [5, 6], 0),
        ([1, 2], [1, 2, 3], 2),
        ([1, 2, 3], [1, 2], 2),
    ],
)
def test_first_difference(left: list[int], right: list[int], wanted: int | None) -> None:
    assert first_difference(left, right) == wanted


@pytest.fixture
def tied(make_target: Callable[[str], Target]) -> Target:
    """A target whose head cannot tell tokens 7 and 8 apart."""
    target = make_target("qwen2")
    weight_VD = target.head_weight.clone()
    weight_VD[8] = weight_VD[7]
    lm_head = LmHead(weight_VD)
    return dataclasses.replace(target, head=InferenceHead(lm_head), lm_head=lm_head)


def test_equal_logits_are_a_near_tie_and_others_are_not(
    tied: Target, reference_model: Callable[[str], PreTrainedModel]
) -> None:
    logits_V = reference_model("qwen2")(torch.tensor([PROMPT])).logits[0, -1]
    far = int((logits_V - logits_V[7]).abs().argmax())
    assert near_tie(tied, PROMPT, 7, 8)
    assert not near_tie(tied, PROMPT, 7, far)


def test_the_bound_follows_the_dtype(tied: Target) -> None:
    """A gap of one part in a thousand is rounding in bfloat16 and a defect in float32."""
    weight_VD = tied.head_weight.clone()
    weight_VD[8] *= 1.001
    lm_head = LmHead(weight_VD)
    apart = dataclasses.replace(tied, head=InferenceHead(lm_head), lm_head=lm_head)
    assert not near_tie(apart, PROMPT, 7, 8)
    half = dataclasses.replace(apart, dtype=torch.bfloat16, decoder=_Float32Decoder(tied))
    assert near_tie(half, PROMPT, 7, 8)


class _Float32Decoder:
    """Runs a float32 decoder under a mask of another dtype, so that only the stated dtype differs."""

    def __init__(self, target: Target) -> None:
        self.decoder = target.decoder

    def __call__(
        self, ids_BL: torch.Tensor, positions_BL: torch.Tensor, cache: SlotCache, mask: torch.Tensor | None, *rest: None
    ) -> torch.Tensor:
        cache._keys, cache._values = cache._keys.float(), cache._values.float()
        return self.decoder(ids_BL, positions_BL, cache, None if mask is None else mask.float(), *rest)


def test_counts(tied: Target, reference_model: Callable[[str], PreTrainedModel]) -> None:
    logits_V = reference_model("qwen2")(torch.tensor([PROMPT])).logits[0, -1]
    far = int((logits_V - logits_V[7]).abs().argmax())
    plain = [[1, 2], [7, 5], [7, 5], [1, 2]]
    speculative = [[1, 2], [8, 9], [far, 5], [1, 2, 3]]
    check = check_lossless(OwnEngine(tied), [PROMPT] * 4, plain, speculative)
    assert (check.num_prompts, check.num_identical, check.num_near_ties, check.num_different) == (4, 1, 1, 2)
    assert check.dtype == "float32"


def test_a_missing_answer_is_noticed(tied: Target) -> None:
    with pytest.raises(ValueError, match="zip"):
        check_lossless(OwnEngine(tied), [PROMPT], [[1]], [])
