"""Draft vocabularies of several packs over one head.

Shapes: N requests, U rows of the head, V vocabulary, D hidden.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eda_service.errors import InputError
from eda_service.export.packed.rows import PackedRows
from eda_service.export.packed.vocabulary import PackedVocabulary

V, D = 12, 4
HEAD = torch.randn(V, D, generator=torch.Generator().manual_seed(0))
BASE, FIRST = [1, 2, 3, 5], [2, 3, 8]


class Head:
    """Rows for the tokens 1, 2, 3, 5 and 8, and two free ones behind them."""

    def __init__(self, num_free: int = 2) -> None:
        ids = sorted({*BASE, *FIRST})
        self.rows = PackedRows(8, 8)
        self.weight_UD = torch.cat([HEAD[ids], torch.zeros(num_free, D)])
        token_U = torch.tensor(ids + [V] * num_free)
        own_PU = torch.stack([torch.isin(token_U, torch.tensor(each)) for each in (BASE, FIRST)])
        self.vocabulary = PackedVocabulary(len(token_U), V, 2, self.rows, self.write)
        self.vocabulary.load(token_U - torch.arange(len(token_U)), own_PU)
        self.vocabulary.clear(2)

    def write(self, row_W: Tensor, value_WD: Tensor) -> None:
        self.weight_UD[row_W] = value_WD

    def __call__(self, hidden_ND: Tensor, places: list[int]) -> Tensor:
        self.rows.set_requests(places)
        logits_NV: Tensor = self.vocabulary(hidden_ND @ self.weight_UD.T)
        return logits_NV


def wanted(hidden_ND: Tensor, tokens: list[list[int]]) -> Tensor:
    """By the target's head, row by row: minus infinity outside of what is scored."""
    full = torch.full((len(tokens), V), float("-inf"))
    for i, ids in enumerate(tokens):
        full[i, ids] = hidden_ND[i] @ HEAD[ids].T
    return full


def test_each_place_scores_its_own_tokens() -> None:
    hidden_ND = torch.randn(3, D)
    torch.testing.assert_close(Head()(hidden_ND, [1, 0, 2]), wanted(hidden_ND, [FIRST, BASE, BASE]))


@pytest.mark.parametrize("tokens", [[8, 9, 10], [0, 1, 11], [5]])
def test_another_packs_tokens_take_free_rows(tokens: list[int]) -> None:
    """8 was the replaced pack's alone, so that its row is free, too."""
    head, hidden_ND = Head(), torch.randn(2, D)
    head.vocabulary.put(1, torch.tensor(tokens), HEAD[tokens])
    torch.testing.assert_close(head(hidden_ND, [1, 0]), wanted(hidden_ND, [tokens, BASE]))
    head.vocabulary.put(2, torch.tensor(FIRST), HEAD[FIRST])
    torch.testing.assert_close(head(hidden_ND, [2, 1]), wanted(hidden_ND, [FIRST, tokens]))


def test_too_many_tokens_are_refused_and_nothing_changes() -> None:
    head, hidden_ND, tokens = Head(), torch.randn(2, D), [0, 4, 6, 7]
    before = head(hidden_ND, [1, 0])
    with pytest.raises(InputError, match=r"scores 4 tokens that no other pack does, and the head has 3 free rows"):
        head.vocabulary.put(1, torch.tensor(tokens), HEAD[tokens])
    assert torch.equal(head(hidden_ND, [1, 0]), before)


def test_all_tokens_need_all_rows() -> None:
    with pytest.raises(InputError, match="free rows"):
        Head().vocabulary.put(1, None, HEAD)
    head = Head(num_free=7)
    head.vocabulary.put(1, None, HEAD)
    hidden_ND = torch.randn(1, D)
    torch.testing.assert_close(head(hidden_ND, [1]), wanted(hidden_ND, [list(range(V))]))


def test_the_targets_head_has_every_row_and_is_not_written() -> None:
    rows = PackedRows(4, 4)
    vocabulary = PackedVocabulary(V, V, 1, rows, None)
    vocabulary.load(None, torch.stack([torch.ones(V, dtype=torch.bool)]))
    vocabulary.put(1, torch.tensor([4, 7]), HEAD[[4, 7]])
    rows.set_requests([1, 0])
    hidden_ND = torch.randn(2, D)
    torch.testing.assert_close(vocabulary(hidden_ND @ HEAD.T), wanted(hidden_ND, [[4, 7], list(range(V))]))
