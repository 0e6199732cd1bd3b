"""The slot cache: what a forward sees after writes, rollback (writing over), moves and growth.

Oracle: a plain dictionary (slot, position) -> value.

Shapes: B rows, H heads, L new positions, T visible keys, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eda_service.targets.decoder.slots import SlotCache


def new_cache(*, num_slots: int = 3, max_tokens: int = 600, num_layers: int = 2) -> SlotCache:
    return SlotCache(
        num_layers=num_layers,
        num_slots=num_slots,
        num_kv_heads=2,
        head_dim=4,
        max_tokens=max_tokens,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def write(cache: SlotCache, starts: list[int], length: int, value: float, *, first_slot: int = 0) -> Tensor:
    """Write `value` (negated as V, plus 100 per layer) at `length` positions from each start; keys of layer 0."""
    positions_BL = torch.tensor(starts)[:, None] + torch.arange(length)
    cache.begin(positions_BL, max(starts) + length, first_slot=first_slot)
    seen = []
    for layer in range(2):
        key = torch.full((len(starts), 2, length, 4), value + 100 * layer)
        keys, values = cache.update(key, -key, layer)
        assert torch.equal(values, -keys)
        seen.append(keys)
    written = seen[0] != 0
    assert torch.equal(seen[1][written], seen[0][written] + 100)
    return seen[0]


def row(keys_BHTd: Tensor, index: int) -> list[float]:
    assert torch.equal(keys_BHTd[index], keys_BHTd[index, :1, :, :1].expand_as(keys_BHTd[index]))
    return [float(value) for value in keys_BHTd[index, 0, :, 0]]


def test_positions_are_written_in_place() -> None:
    cache = new_cache()
    assert row(write(cache, [0, 0], 3, 1.0), 0) == [1, 1, 1]
    keys = write(cache, [3, 1], 2, 2.0)
    assert row(keys, 0) == [1, 1, 1, 2, 2]
    assert row(keys, 1) == [1, 2, 2, 0, 0]  # rolled back to 1 and written over: the third 1 is gone
    assert cache.get_seq_length() == 5


def test_rollback_needs_no_call() -> None:
    """Five positions written, two kept: the next forward starts at 2 and nothing of the rejected ones is seen."""
    cache = new_cache(num_slots=1)
    write(cache, [0], 5, 1.0)
    assert row(write(cache, [2], 1, 2.0), 0) == [1, 1, 2]


def test_first_slot_leaves_the_slots_before_it_alone() -> None:
    cache = new_cache()
    write(cache, [0, 0], 2, 1.0)
    assert row(write(cache, [0], 4, 7.0, first_slot=2), 0) == [7, 7, 7, 7]
    keys = write(cache, [2, 2, 4], 1, 3.0)
    assert [row(keys, i) for i in range(3)] == [[1, 1, 3, 0, 0], [1, 1, 3, 0, 0], [7, 7, 7, 7, 3]]


def test_move_copies_the_first_positions_only() -> None:
    cache = new_cache()
    write(cache, [0, 0, 0], 2, 1.0)
    write(cache, [2, 2], 1, 2.0)
    write(cache, [0], 4, 9.0, first_slot=2)
    cache.move(2, 0, 2)
    keys = write(cache, [3, 3, 4], 1, 5.0)
    assert [row(keys, i) for i in range(3)] == [[9, 9, 2, 5, 0], [1, 1, 2, 5, 0], [9, 9, 9, 9, 5]]


def test_growth_keeps_what_is_there() -> None:
    cache = new_cache(num_slots=1)
    write(cache, [0], 250, 1.0)
    assert row(write(cache, [250], 20, 2.0), 0) == [1.0] * 250 + [2.0] * 20
    assert row(write(cache, [270], 330, 3.0), 0)[245:275] == [1.0] * 5 + [2.0] * 20 + [3.0] * 5


def test_a_path_is_compacted_in_place_and_only_it() -> None:
    """Nodes 0..4 of a tree at places 2..6 of slot 1; path 0, 2, 3 moves to 2, 3, 4; slot 0 and the prefix stay."""
    cache = new_cache(num_slots=2)
    write(cache, [0, 0], 2, 1.0)
    for node in range(5):
        write(cache, [2 + node, 2 + node], 1, 10.0 + node)
    cache.compact(1, 2, [0, 2, 3])
    keys = write(cache, [7, 5], 1, 99.0)
    assert row(keys, 0) == [1, 1, 10, 11, 12, 13, 14, 99]
    assert row(keys, 1)[:6] == [1, 1, 10, 12, 13, 99]


def test_a_path_in_place_moves_nothing() -> None:
    cache = new_cache(num_slots=1)
    write(cache, [0], 4, 3.0)
    before = cache._keys.clone()
    cache.compact(0, 1, [0, 1, 2])
    assert torch.equal(cache._keys, before)
