"""Key/value cache with one slot per live sequence, written in place and rolled back by forgetting positions.

Nothing is copied between rounds: a forward writes the keys of position p at index p, and the next round overwrites
rejected positions, because a query at position p never sees an index above p. A tree's nodes are written side by side;
afterwards only the accepted path is moved to its positions.

Shapes: S slots, B rows of a forward (slots 0..B-1), H key/value heads, L new positions, T capacity, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eda_service.targets.decoder.tiles import most_keys

_GROW = 256


class SlotCache:
    """Keys and values of up to S sequences over all layers.

    Args:
        num_layers: Number of layers of the model.
        num_slots: Number of slots S.
        num_kv_heads: Number of key/value heads H.
        head_dim: Width d of a head.
        max_tokens: Longest sequence in tokens, rounded up to the length that a forward reads; capacity grows towards
            it.
        dtype: Dtype of keys and values.
        device: Device of keys and values.
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
        self.max_tokens = most_keys(max_tokens)
        self.num_slots = num_slots
        self._shape = (num_layers, num_slots, num_kv_heads, head_dim)
        self._dtype, self._device = dtype, device
        self._capacity = 0
        self._keys = self._empty(0)
        self._values = self._empty(0)
        self._rows: Tensor = torch.empty(0)
        self._index: Tensor = torch.empty(0)
        self._num_keys = 0
        self._slots = slice(0, 0)
        self.claimed: int | None = None
        """Length that `get_seq_length` reports instead of the real one, in the check that nothing depends on it."""

    def _empty(self, capacity: int) -> Tensor:
        layers, slots, heads, width = self._shape
        return torch.zeros(layers, slots, heads, capacity, width, dtype=self._dtype, device=self._device)

    def begin(self, index_BL: Tensor, num_keys: int, *, first_slot: int = 0) -> None:
        """Set the places that the next forward writes, for slots first_slot..first_slot+B-1.

        Args:
            index_BL: Position at which each new token's key and value are written.
            num_keys: Number of keys that any query of this forward may see: the highest position plus one.
            first_slot: Slot of row 0.
        """
        if num_keys > self._capacity:
            self._grow(num_keys)
        rows = index_BL.shape[0]
        self._rows = torch.arange(first_slot, first_slot + rows, device=self._device)[:, None]
        self._index = index_BL
        self._num_keys = num_keys
        self._slots = slice(first_slot, first_slot + rows)

    def _grow(self, num_keys: int) -> None:
        capacity = min(self.max_tokens, -(-num_keys // _GROW) * _GROW)
        old_keys, old_values = self._keys, self._values
        self._keys, self._values = self._empty(capacity), self._empty(capacity)
        self._keys[..., : self._capacity, :] = old_keys
        self._values[..., : self._capacity, :] = old_values
        self._capacity = capacity

    def write(self, key_BLHd: Tensor, value_BLHd: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values and return views (B, H, num_keys, d) of all visible ones."""
        keys, values = self._keys[layer], self._values[layer]
        keys[self._rows, :, self._index] = key_BLHd
        values[self._rows, :, self._index] = value_BLHd
        return keys[self._slots, :, : self._num_keys], values[self._slots, :, : self._num_keys]

    def update(self, key_BHLd: Tensor, value_BHLd: Tensor, layer_idx: int, *_: object) -> tuple[Tensor, Tensor]:
        """Run `write` with the arguments that transformers' modules pass."""
        return self.write(key_BHLd.transpose(1, 2), value_BHLd.transpose(1, 2), layer_idx)

    def compact(self, slot: int, start: int, path: Sequence[int]) -> None:
        """Keep a path of a tree that was written from `start`: its i-th node moves from start + path[i] to start + i.

        Nothing moves for nodes already in place, and only the path's keys and values are touched.
        """
        places = [i for i, node in enumerate(path) if node != i]
        if not places:
            return
        source = torch.tensor([start + path[i] for i in places], device=self._device)
        destination = torch.tensor([start + i for i in places], device=self._device)
        for store in (self._keys, self._values):
            view = store[:, slot]
            view[:, :, destination] = view[:, :, source]

    def clear(self, slot: int) -> None:
        """Zero a slot."""
        self._keys[:, slot].zero_()
        self._values[:, slot].zero_()

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another, which keeps the live slots side by side."""
        for store in (self._keys, self._values):
            store[:, destination, :, :length] = store[:, source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of keys visible to the current forward. No result may depend on it, because rows have
        different lengths.
        """
        return self._num_keys if self.claimed is None else self.claimed
