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


def test_rows_that_a_share_takes() -> None:
    # Of 20 tokens 12 are known; 5, 2 and 1 of the others.
    covered = coverage(torch.tensor([1]), [[1] * 12 + [7] * 2, [9] * 5 + [3]])
    wanted = {0.5: 0, 0.6: 0, 0.7: 1, 0.85: 1, 0.86: 2, 0.95: 2, 0.96: 3, 1.0: 3}
    assert {share: covered.rows_for(share) for share in wanted} == wanted
    assert covered.rows_for(1.1) is None
