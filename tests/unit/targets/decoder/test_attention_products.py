"""Attention as two products: the same function as torch's, taken only where bits may differ and where it is faster."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eda_service.targets.decoder import attention_products
from eda_service.targets.decoder.attention import attend, visible_mask
from eda_service.targets.decoder.attention_products import attend_by_products, extents, keys_to_see, pays
from eda_service.targets.decoder.tiles import one_order

_CPU = torch.device("cpu")
_ROWS, _HEADS, _GROUPS, _WIDTH, _KEYS = 4, 2, 3, 16, 96


def _drawn(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values, the mask and the places of some rows of unlike lengths; keys beyond them are huge."""
    torch.manual_seed(0)
    query_BNLd = torch.randn(_ROWS, _HEADS * _GROUPS, length, _WIDTH).bfloat16()
    keys, values = torch.randn(2, _ROWS, _HEADS, 128, _WIDTH).bfloat16()
    positions_BL = torch.tensor([40, 7, 61, 0])[:, None] + torch.arange(length)
    for row, last in enumerate(positions_BL[:, -1].tolist()):
        keys[row, :, last + 1 :], values[row, :, last + 1 :] = 50.0, 1e4
    mask = visible_mask(positions_BL, _KEYS, _GROUPS, torch.bfloat16)
    assert mask is not None
    return query_BNLd, keys[:, :, :_KEYS], values[:, :, :_KEYS], mask, positions_BL


def _by_hand(query_BNLd: Tensor, keys: Tensor, values: Tensor, positions_BL: Tensor) -> Tensor:
    """Each query by itself, over the keys up to its place, in float64."""
    out = torch.empty(query_BNLd.shape, dtype=torch.float64)
    for row, head, place in torch.cartesian_prod(*map(torch.arange, query_BNLd.shape[:3])).tolist():
        seen = slice(int(positions_BL[row, place]) + 1)
        scores = keys[row, head // _GROUPS, seen].double() @ query_BNLd[row, head, place].double() / _WIDTH**0.5
        out[row, head, place] = torch.softmax(scores, 0) @ values[row, head // _GROUPS, seen].double()
    return out


@pytest.mark.parametrize("most_scores", [1 << 20, 3000, 200])
@pytest.mark.parametrize("length", [1, 5, 30])
def test_it_is_attention(length: int, most_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few queries and of many, at once and in parts of rows and of queries."""
    monkeypatch.setattr(attention_products, "_MOST_SCORES", most_scores)
    query_BNLd, keys, values, mask, positions_BL = _drawn(length)
    folded = query_BNLd.reshape(_ROWS, _HEADS, _GROUPS * length, _WIDTH)
    found = attend_by_products(folded, keys, values, mask).view_as(query_BNLd)
    torch.testing.assert_close(found.double(), _by_hand(query_BNLd, keys, values, positions_BL), atol=0.02, rtol=0.02)
    doubled = attend_by_products(folded * 2, keys, values, mask, _WIDTH**-0.5 / 2).view_as(query_BNLd)
    assert torch.equal(doubled, found)  # a power of two changes no rounding


def test_rows_that_see_little_are_parts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no row of a part sees is not read: it may be anything."""
    lengths = [40] * 8 + [30, 200] + [25] * 11
    mask = visible_mask(torch.tensor(lengths)[:, None] - 1, 224, 1, torch.bfloat16)
    assert mask is not None
    assert extents(mask, 5) == [(0, 8, 64), (8, 16, 224), (16, 21, 32)]
    assert extents(mask, 1) == [(0, 21, 224)], "too little is spared"
    monkeypatch.setattr(attention_products, "_LEAST_SAVED", 0)
    query = torch.randn(len(lengths), 1, 1, 16).bfloat16()
    keys, values = torch.randn(2, len(lengths), 1, 224, 16).bfloat16()
    found = attend_by_products(query, keys, values, mask)
    keys[:8, :, 64:], values[16:, :, 32:] = torch.nan, torch.nan
    assert torch.equal(attend_by_products(query, keys, values, mask.clone()), found)
    for row, length in enumerate(lengths):
        alone = torch.softmax(query[row, 0, 0].float() @ keys[row, 0, :length].float().T / 4, 0)
        wanted = alone @ values[row, 0, :length].float()
        torch.testing.assert_close(found[row, 0, 0].float(), wanted, atol=0.02, rtol=0.02)


def test_attention_takes_it_and_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_products, "_has_bfloat16", lambda: True)
    monkeypatch.setattr(attention_products, "_LEAST_WORK", 0)
    query_BNLd, keys, values, mask, _ = _drawn(5)
    with torch.inference_mode():
        taken = attend(query_BNLd, keys, values, mask)
        monkeypatch.setattr(attention_products, "_LEAST_WORK", 1 << 60)
        torches = attend(query_BNLd, keys, values, mask)
    torch.testing.assert_close(taken, torches, atol=0.03, rtol=0.03)
    assert not torch.equal(taken, torches)  # else one of them was compared with itself


def test_it_is_taken_where_no_bits_are_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_products, "_has_bfloat16", lambda: True)
    query, keys = torch.zeros(16, 3, 3, 64).bfloat16(), torch.zeros(16, 3, 160, 64).bfloat16()
    assert not pays(query, keys), "with gradients"
    with torch.no_grad():
        assert pays(query, keys)
        assert not pays(query[:1], keys[:1]), "too little to do"
        assert not pays(query.float(), keys.float())
        assert not pays(query.to("meta"), keys.to("meta"))
        with one_order():
            assert not pays(query, keys)
        monkeypatch.setattr(attention_products, "_has_bfloat16", lambda: False)
        assert not pays(query, keys)


def test_few_numbers_of_keys_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_products, "_has_bfloat16", lambda: True)
    assert [keys_to_see(keys, 4, torch.bfloat16, _CPU) for keys in (1, 32, 33, 250)] == [32, 32, 64, 256]
    assert keys_to_see(33, 1, torch.bfloat16, _CPU) == 33, "one query has no mask that could hide keys"
    assert keys_to_see(33, 4, torch.float32, _CPU) == 33
    assert keys_to_see(33, 4, torch.bfloat16, torch.device("meta")) == 33
    with one_order():
        assert keys_to_see(33, 4, torch.float32, _CPU) == keys_to_see(33, 1, torch.bfloat16, _CPU) == 64
