"""One token, the same bits, whatever else its forward holds: what makes one request one answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eda_service.targets.decoder.attention import attend, visible_mask
from eda_service.targets.decoder.packed import make_linear, native_bfloat16
from eda_service.targets.decoder.tiles import most_keys, one_order, whole_keys, whole_rows
from eda_service.targets.loader import Target

_CPU = torch.device("cpu")
_WIDTH = 64
_MOST_KEYS = 1024


@pytest.mark.parametrize(
    ("num_keys", "wanted"), [(1, 64), (64, 64), (65, 128), (192, 192), (193, 512), (513, 576), (704, 704), (705, 1024)]
)
def test_keys_are_rounded_up_to_lengths_that_sum_alike(num_keys: int, wanted: int) -> None:
    assert whole_keys(num_keys, _CPU) == num_keys
    with one_order():
        assert whole_keys(num_keys, _CPU) == most_keys(num_keys) == wanted
        assert whole_keys(num_keys, torch.device("meta")) == num_keys
        with one_order(wanted=False):
            assert whole_keys(num_keys, _CPU) == num_keys


def test_rows_are_rounded_up_to_eights() -> None:
    with one_order():
        assert [whole_rows(count, _CPU) for count in (1, 8, 9, 48)] == [8, 8, 16, 48]


@pytest.mark.skipif(not native_bfloat16(), reason="such weights are packed only where the processor multiplies them")
@pytest.mark.parametrize(("width_in", "width_out"), [(1536, 576), (576, 960)])
def test_one_row_alone_has_the_bits_it_has_among_others_in_bfloat16(width_in: int, width_out: int) -> None:
    torch.manual_seed(0)
    packed = make_linear((torch.randn(width_out, width_in) / width_in**0.5).bfloat16())
    x_NI, addend_NO = torch.randn(64, width_in).bfloat16(), torch.randn(64, width_out).bfloat16()
    with one_order():
        alone = torch.cat([packed(row_I[None]) for row_I in x_NI])
        added = torch.cat([packed.added(row_I[None], each[None]) for row_I, each in zip(x_NI, addend_NO, strict=True)])
    assert torch.equal(alone, packed(x_NI))
    assert torch.equal(added, packed.added(x_NI, addend_NO))


def _attended(draw: tuple[Tensor, Tensor, Tensor], place: int, rows: int, length: int, further: int) -> Tensor:
    """What the first query of row 0 gets at a place, in a forward of some rows and positions over keys up to
    `further` beyond them.
    """
    query, keys, values = draw
    groups = query.shape[1] // keys.shape[1]
    positions_BL = torch.full((rows, 1), place) + torch.arange(length)
    with one_order():
        num_keys = whole_keys(place + length + further, _CPU)
        mask = visible_mask(positions_BL, num_keys, groups, query.dtype)
    return attend(query[:rows, :, :length], keys[:rows, :, :num_keys], values[:rows, :, :num_keys], mask)[0, :, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_query_s_attention_does_not_depend_on_its_forward(dtype: torch.dtype, groups: int) -> None:
    torch.manual_seed(0)
    shapes = [(1, 1, 0), (1, 6, 0), (1, 11, 0), (1, 33, 0), (4, 1, 40), (4, 6, 200), (2, 70, 0)]
    for _ in range(3):
        query = torch.randn(4, 3 * groups, 70, _WIDTH).to(dtype)
        keys, values = torch.randn(2, 4, 3, _MOST_KEYS, _WIDTH).to(dtype)
        for place in (3, 60, 130, 300, 500, 640):
            found = [_attended((query, keys, values), place, *shape) for shape in shapes]
            assert all(torch.equal(found[0], each) for each in found[1:]), place


def test_rounding_up_hides_what_it_adds() -> None:
    """Against the same attention over exactly the keys and rows that are meant, but for rounding."""
    torch.manual_seed(0)
    query, keys, values = torch.randn(2, 6, 5, _WIDTH), *torch.randn(2, 2, 2, _MOST_KEYS, _WIDTH)
    found = _attended((query, keys, values), 70, 2, 5, 0)
    scores = query[0, :, 0].view(2, 3, _WIDTH) @ keys[0, :, :71].transpose(1, 2) / _WIDTH**0.5
    wanted = torch.softmax(scores, -1) @ values[0, :, :71]
    torch.testing.assert_close(found, wanted.view(6, _WIDTH), rtol=1e-5, atol=1e-5)


def _states(target: Target, ids: list[int], num_before: int, length: int, rows: int, *, ordered: bool) -> Tensor:
    """States of the first token after `num_before`, read with others after it and beside other rows."""
    cache = target.new_cache(rows, 120)
    others = [[*ids[5:num_before], *ids[:5]], ids[: num_before // 2]][: rows - 1]
    block = torch.tensor([ids[num_before : num_before + length]] * rows)
    starts = [num_before, *(len(each) for each in others)]
    with one_order(ordered):
        target.forward(torch.tensor([ids[:num_before]]), cache, [0])
        for slot, each in enumerate(others, start=1):
            target.forward(torch.tensor([each]), cache, [0], first_slot=slot)
        return target.forward(block, cache, starts).head_in[0, 0]


def _all_states(target: Target, num_before: int, *, ordered: bool) -> list[Tensor]:
    ids = [3 + (7 * i) % 100 for i in range(90)]
    shapes = [(length, rows) for length in (1, 2, 6) for rows in (1, 2, 3)]
    return [_states(target, ids, num_before, *shape, ordered=ordered) for shape in shapes]


def test_a_token_s_states_do_not_depend_on_depth_and_batch(tiny_target: Target) -> None:
    for num_before in (12, 40, 61):
        found = _all_states(tiny_target, num_before, ordered=True)
        assert all(torch.equal(found[0], each) for each in found[1:]), num_before


def test_without_the_rounding_they_do(tiny_target: Target) -> None:
    """Else the test above could not fail."""
    found = _all_states(tiny_target, 61, ordered=False)
    assert not all(torch.equal(found[0], each) for each in found[1:])
