"""Coverage of a text by a draft vocabulary, counted by hand."""

from __future__ import annotations

import pytest
import torch

from eda_service.drafts.coverage import coverage


@pytest.mark.parametrize(
    ("vocab", "answers", "wanted"),
    [
        ([1, 5, 9], [[1, 1, 2], [9, 7]], 3 / 5),
        ([1, 5, 9], [[5], [], [1]], 1.0),
        ([1], [[2, 3]], 0.0),
        (None, [[1, 2]], 1.0),
        ([1], [[]], 1.0),
    ],
    ids=["counted by occurrence", "all", "none", "whole vocabulary", "no token"],
)
def test_coverage(vocab: list[int] | None, answers: list[list[int]], wanted: float) -> None:
    vocab_W = None if vocab is None else torch.tensor(vocab, dtype=torch.int32)
    assert coverage(vocab_W, answers).share == pytest.approx(wanted)
