"""Key/value cache with one slot per live sequence, written in place and rolled back by forgetting positions.

Nothing is copied between rounds: a forward writes the keys of position p at index p, and rejected positions are simply
written over by the next round, because a query at position p never sees an index above p.

Shapes: S slots, B rows of a forward (slots 0..B-1), H key/value heads, L new positions, T capacity, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GROW = 256


class SlotCache:
    """Keys and values of up to S sequences over all layers.

    Args:
        num_layers: Layers of the model.
        num_slots: S.
        num_kv_heads: H.
        head_dim: d.
        max_tokens: Longest sequence ever held; capacity grows towards it in steps.
        dtype: Of the keys and values.
        device: Where they live.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        head_dim: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.max_tokens = max_tokens
        self.num_slots = num_slots
        self._shape = (num_slots, num_kv_heads, head_dim)
        self._dtype, self._device = dtype, device
        self._capacity = 0
        self._keys: list[Tensor] = [self._empty(0) for _ in range(num_layers)]
        self._values: list[Tensor] = [self._empty(0) for _ in range(num_layers)]
        self._rows: Tensor = torch.empty(0)
        self._positions: Tensor = torch.empty(0)
        self._num_keys = 0
        self._first_slot = 0

    def _empty(self, capacity: int) -> Tensor:
        slots, heads, width = self._shape
        return torch.zeros(slots, heads, capacity, width, dtype=self._dtype, device=self._device)

    def begin(self, positions_BL: Tensor, num_keys: int, *, first_slot: int = 0) -> None:
        """Name the positions the next forward writes, for slots first_slot..first_slot+B-1.

        Args:
            positions_BL: Index of each new token in its sequence.
            num_keys: Keys any query of this forward may see: the highest position plus one.
            first_slot: Slot of row 0.
        """
        if num_keys > self._capacity:
            self._grow(num_keys)
        rows = positions_BL.shape[0]
        self._rows = torch.arange(first_slot, first_slot + rows, device=self._device)[:, None].expand_as(positions_BL)
        self._positions = positions_BL
        self._num_keys = num_keys
        self._first_slot = first_slot

    def _grow(self, num_keys: int) -> None:
        capacity = min(self.max_tokens, -(-num_keys // _GROW) * _GROW)
        for store in (self._keys, self._values):
            for layer, old in enumerate(store):
                new = self._empty(capacity)
                new[:, :, : old.shape[2]] = old
                store[layer] = new
        self._capacity = capacity

    def update(self, key_BHLd: Tensor, value_BHLd: Tensor, layer_idx: int, *_: object) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values and return views (B, H, num_keys, d) of all visible ones."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._rows, :, self._positions] = key_BHLd.transpose(1, 2)
        values[self._rows, :, self._positions] = value_BHLd.transpose(1, 2)
        rows = slice(self._first_slot, self._first_slot + key_BHLd.shape[0])
        return keys[rows, :, : self._num_keys], values[rows, :, : self._num_keys]

    def clear(self, slot: int) -> None:
        """Zero a slot."""
        for store in (self._keys, self._values):
            for tensor in store:
                tensor[slot].zero_()

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another: how the live slots are kept side by side."""
        for store in (self._keys, self._values):
            for tensor in store:
                tensor[destination, :, :length] = tensor[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Keys visible to the forward in progress (asked by transformers' mask code)."""
        return self._num_keys
