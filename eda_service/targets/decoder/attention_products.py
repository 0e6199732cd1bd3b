"""Attention of bfloat16 on a CPU as two products of all rows' heads at once, the softmax between them in float32.

Torch's attention takes heads one by one, with products that know no bfloat16 of their own at the few queries of
decoding: of a step of 16 rows it took almost half (`make bench NAME=generation`). oneDNN multiplies all heads of a
batch in one call. With few queries the scores are made as K q^T, which reads the keys as they lie in the cache; q K^T
would first copy them. Scores are rounded to bfloat16, as transformers' eager attention rounds them, which torch's own
attention does not do.

Rows that see fewer keys than the longest are multiplied with fewer, eight rows at a time where that pays: the extents
are read from the mask, once for all layers of a forward.

It is taken where it is the faster one: nothing changes in float32, on other devices, on processors without bfloat16 and
within `tiles.one_order`, whose bits must not depend on the batch.

Shapes: B rows, H key/value heads, Q folded queries, T keys, d head width.
"""

from __future__ import annotations

import functools
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from eda_service.targets.decoder.packed import native_bfloat16
from eda_service.targets.decoder.tiles import is_ordered, whole_keys

_LEAST_WORK = 20_000
"""Value of B H T (Q + 8), below which starting the operations costs more than torch's attention."""
_FEW_QUERIES = 64
_MOST_SCORES = 1 << 20
"""Scores made at once: 4 MB in float32."""
_KEYS = 32
_ROWS = 8
_LEAST_SAVED = 4_000
"""Keys of all heads and rows that a part of its own must spare: what starting its operations costs, twice."""

_has_bfloat16 = functools.cache(native_bfloat16)


def _is_possible(dtype: torch.dtype, device: torch.device) -> bool:
    return dtype == torch.bfloat16 and device.type == "cpu" and _has_bfloat16() and not is_ordered(device)


def keys_to_see(num_keys: int, num_queries: int, dtype: torch.dtype, device: torch.device) -> int:
    """How many keys a forward looks at that needs `num_keys`: as many, or a few more that its mask hides.

    oneDNN makes a kernel for each number of keys, which takes as long as ten attentions, and each round would have
    another. One query alone has no mask and sees what it needs.

    Args:
        num_keys: The highest place that any query sees, plus one.
        num_queries: Queries of all rows, before heads are folded.
        dtype: Type of queries, keys and values.
        device: Device of queries, keys and values.
    """
    if is_ordered(device):
        return whole_keys(num_keys, device)
    return -(-num_keys // _KEYS) * _KEYS if num_queries > 1 and _is_possible(dtype, device) else num_keys


def pays(query_BHQd: Tensor, keys_BHTd: Tensor) -> bool:
    """Whether two products are faster here than torch's attention, and may be taken."""
    if torch.is_grad_enabled() or not _is_possible(query_BHQd.dtype, query_BHQd.device):
        return False
    rows, heads, length, _ = query_BHQd.shape
    return rows * heads * keys_BHTd.shape[2] * (length + 8) >= _LEAST_WORK


def attend_by_products(
    query_BHQd: Tensor, keys_BHTd: Tensor, values_BHTd: Tensor, mask: Tensor, scaling: float | None = None
) -> Tensor:
    """Scaled dot-product attention (B, H, Q, d), in parts of so many scores at most.

    Args:
        query_BHQd: Queries.
        keys_BHTd: Keys, views of a cache.
        values_BHTd: Values.
        mask: Additive (B, 1, Q, T).
        scaling: Factor of the scores; None: one over the root of d.
    """
    scale = query_BHQd.shape[3] ** -0.5 if scaling is None else scaling
    parts = _EXTENTS.of(mask, query_BHQd.shape[1])
    if len(parts) == 1 and query_BHQd.shape[:3].numel() * parts[0].num_keys <= _MOST_SCORES:
        num_keys = parts[0].num_keys
        seen = (keys_BHTd[:, :, :num_keys], values_BHTd[:, :, :num_keys], mask[..., :num_keys])
        return _attend(query_BHQd, *seen, scale)
    return torch.cat([_attend_part(part, query_BHQd, keys_BHTd, values_BHTd, mask, scale) for part in parts])


def _attend_part(
    part: Extent, query_BHQd: Tensor, keys_BHTd: Tensor, values_BHTd: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The rows of one part, so many of them and of their queries at once as make the most scores."""
    _, heads, length, _ = query_BHQd.shape
    num_rows = max(1, _MOST_SCORES // (heads * part.num_keys * length))
    num_queries = min(length, max(1, _MOST_SCORES // (heads * part.num_keys)))
    blocks = []
    for row in range(part.first, part.end, num_rows):
        some = slice(row, min(part.end, row + num_rows))
        keys, values = keys_BHTd[some, :, : part.num_keys], values_BHTd[some, :, : part.num_keys]
        shown, asked = mask[some, ..., : part.num_keys], query_BHQd[some]
        spans = [slice(first, first + num_queries) for first in range(0, length, num_queries)]
        made = [_attend(asked[:, :, span], keys, values, shown[:, :, span], scale) for span in spans]
        blocks.append(made[0] if len(made) == 1 else torch.cat(made, dim=2))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


class Extent(NamedTuple):
    """Rows first..end-1, of which none sees a key beyond `num_keys`."""

    first: int
    end: int
    num_keys: int


def extents(mask: Tensor, num_heads: int) -> list[Extent]:
    """The rows of a mask (B, 1, Q, T) in parts, each with the keys that any of its rows sees, rounded up."""
    sees_BT = (mask == 0).any(dim=2).squeeze(1)
    last_B = torch.where(sees_BT, torch.arange(1, mask.shape[3] + 1), 0).amax(1)
    needed = [min(mask.shape[3], -(-last // _KEYS) * _KEYS) for last in last_B.tolist()]
    parts: list[Extent] = []
    for first in range(0, len(needed), _ROWS):
        end = min(len(needed), first + _ROWS)
        part = Extent(first, end, max(needed[first:end]))
        if parts and num_heads * _spared(parts[-1], part) < _LEAST_SAVED:
            part = Extent(parts[-1].first, end, max(parts.pop().num_keys, part.num_keys))
        parts.append(part)
    return parts


def _spared(one: Extent, other: Extent) -> int:
    """Keys that the two parts read less than one part of both."""
    rows = other.end - other.first if one.num_keys > other.num_keys else one.end - one.first
    return rows * abs(one.num_keys - other.num_keys)


class _Extents:
    """The last mask with its extents: the layers of one forward ask for the same ones in turn."""

    def __init__(self) -> None:
        self._kept: tuple[weakref.ref[Tensor], list[Extent]] | None = None

    def of(self, mask: Tensor, num_heads: int) -> list[Extent]:
        """`extents`, made once for a mask."""
        kept = self._kept
        if kept is None or kept[0]() is not mask:
            kept = self._kept = (weakref.ref(mask), extents(mask, num_heads))
        return kept[1]


_EXTENTS = _Extents()


def _attend(query_BHQd: Tensor, keys_BHTd: Tensor, values_BHTd: Tensor, mask_B1QT: Tensor, scale: float) -> Tensor:
    if query_BHQd.shape[2] < _FEW_QUERIES:
        products_BHQT = (keys_BHTd @ query_BHQd.transpose(-1, -2)).transpose(-1, -2).contiguous()
    else:
        products_BHQT = query_BHQd @ keys_BHTd.transpose(-1, -2)
    scores_BHQT = products_BHQT.float().mul_(scale).add_(mask_B1QT)
    weights_BHQT = torch.softmax(scores_BHQT, dim=-1)
    return weights_BHQT.to(values_BHTd.dtype) @ values_BHTd
