"""Attention over a slot cache, registered with transformers so that every supported family uses it unchanged.

Grouped-query heads are folded into the query length instead of repeating keys and values: with 32 sequences of 256
tokens the repeat alone costs four times the attention (measured). The number of rows of the mask is the number of
folded queries, which may be a few more than needed (`tiles`).

Shapes: B rows, H key/value heads, G query heads per key/value head, L query positions, Q >= G*L folded queries, T key
positions, d head width.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from eda_service.errors import TargetIncompatibleError
from eda_service.targets.decoder.attention_products import attend_by_products, pays
from eda_service.targets.decoder.tiles import is_ordered, whole_rows

NAME = "eda_slots"
# Arguments of transformers that have no effect here: no dropout while decoding, positions and flags that masks and
# rotation hold already.
_WITHOUT_EFFECT = frozenset(
    {
        *("dropout", "position_ids", "cache_position", "use_cache", "output_attentions"),
        *("output_hidden_states", "return_dict", "is_causal", "layer_idx", "past_key_values", "logits_to_keep"),
        *("position_embeddings", "output_router_logits"),
    }
)


@dataclass(frozen=True)
class TreeShape:
    """The tree that the tokens of one forward form in every row; node 0 is the root.

    Attributes:
        depths_BL: Distance of each node from the root.
        ancestors_BLL: Whether the column's node is the row's ancestor or the node itself.
    """

    depths_BL: Tensor
    ancestors_BLL: Tensor


def visible_mask(positions_BL: Tensor, num_keys: int, groups: int, dtype: torch.dtype) -> Tensor | None:
    """Make an additive mask (B, 1, Q, T): a query at position p sees keys 0..p; None if every query sees every key."""
    if positions_BL.numel() == 1 and not is_ordered(positions_BL.device):
        return None
    keys_T = torch.arange(num_keys, device=positions_BL.device)
    return additive_mask(keys_T > positions_BL[..., None], groups, dtype)


def tree_mask(starts_B: Tensor, ancestors_BLN: Tensor, num_keys: int, groups: int, dtype: torch.dtype) -> Tensor:
    """Make an additive mask (B, 1, Q, T) of L queries over a tree whose N nodes lie at starts..starts+N-1: each sees
    the tokens before the tree, its ancestors and itself.

    Args:
        starts_B: Position of each row's first node.
        ancestors_BLN: Whether the node of the column is the query's ancestor or the query itself.
        num_keys: Number of key positions T.
        groups: Number of query heads per key/value head, G.
        dtype: Dtype of the attention.
    """
    length, num_nodes = ancestors_BLN.shape[1:]
    relative_BT = torch.arange(num_keys, device=starts_B.device) - starts_B[:, None]
    column_BLT = relative_BT.clamp(0, num_nodes - 1)[:, None].expand(-1, length, -1)
    inside_B1T = ((relative_BT >= 0) & (relative_BT < num_nodes))[:, None]
    seen_BLT = (relative_BT < 0)[:, None] | (inside_B1T & ancestors_BLN.gather(2, column_BLT))
    return additive_mask(~seen_BLT, groups, dtype)


def additive_mask(hidden_BLT: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Make a mask that is -inf where hidden, for queries folded by group (B, 1, Q, T); queries beyond
    G*L see all keys.
    """
    mask_BLT = torch.zeros(hidden_BLT.shape, dtype=dtype, device=hidden_BLT.device)
    mask_BLT.masked_fill_(hidden_BLT, float("-inf"))
    mask_B1QT = mask_BLT[:, None].repeat(1, 1, groups, 1)
    num_rows = mask_B1QT.shape[2]
    num_added = whole_rows(num_rows, mask_B1QT.device) - num_rows
    return F.pad(mask_B1QT, (0, 0, 0, num_added)) if num_added else mask_B1QT


def windowed(mask: Tensor, window: int) -> Tensor:
    """Restrict a mask (B, 1, Q, T): a query no longer sees keys that are `window` or more places before it.

    A query's own place is the number of keys it sees minus one, in a sequence as in a tree: before it are the prefix
    and its ancestors, and a tree is never deeper than a window.
    """
    last_B1Q1 = (mask == 0).sum(-1, keepdim=True) - 1
    keys_T = torch.arange(mask.shape[-1], device=mask.device)
    return mask.masked_fill(keys_T <= last_B1Q1 - window, float("-inf"))


class _Windows:
    """The last mask with its windowed forms: the layers of one forward ask for the same ones repeatedly."""

    def __init__(self) -> None:
        self._mask: weakref.ref[Tensor] | None = None
        self._made: dict[int, Tensor] = {}

    def of(self, mask: Tensor, window: int) -> Tensor:
        """Return `windowed(mask, window)`, computed once per mask."""
        if self._mask is None or self._mask() is not mask:
            self._mask, self._made = weakref.ref(mask), {}
        made = self._made.get(window)
        if made is None:
            made = self._made[window] = windowed(mask, window)
        return made


_WINDOWS = _Windows()


def within(
    keys_BHTd: Tensor, values_BHTd: Tensor, mask: Tensor | None, window: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Restrict keys, values and mask to a layer's window of `window` places, the query's own included;
    None: no window.
    """
    if window is None or keys_BHTd.shape[2] <= window:
        return keys_BHTd, values_BHTd, mask
    if mask is None:  # one query, at the last place
        return keys_BHTd[:, :, -window:], values_BHTd[:, :, -window:], None
    return keys_BHTd, values_BHTd, _WINDOWS.of(mask, window)


def attend(
    query_BNLd: Tensor, keys_BHTd: Tensor, values_BHTd: Tensor, mask: Tensor | None, scaling: float | None = None
) -> Tensor:
    """Compute scaled dot-product attention with folded heads (B, N, L, d); without a mask every key is seen."""
    rows, num_heads, length, width = query_BNLd.shape
    num_kv_heads = keys_BHTd.shape[1]
    num_rows = num_heads // num_kv_heads * length
    folded = query_BNLd.reshape(rows, num_kv_heads, num_rows, width)
    num_added = 0 if mask is None else mask.shape[2] - num_rows
    if mask is not None and not num_added and pays(folded, keys_BHTd):
        by_products = attend_by_products(folded, keys_BHTd, values_BHTd, mask, scaling)
        return by_products.reshape(rows, num_heads, length, width)
    if num_added:
        folded = F.pad(folded, (0, 0, 0, num_added))
    out = F.scaled_dot_product_attention(folded, keys_BHTd, values_BHTd, attn_mask=mask, scale=scaling)
    return out[:, :, :num_rows].reshape(rows, num_heads, length, width)


def attend_capped(
    query_BNLd: Tensor,
    keys_BHTd: Tensor,
    values_BHTd: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    *,
    softcap: float | None = None,
    sinks_N: Tensor | None = None,
) -> Tensor:
    """Compute `attend` with a soft cap on the scores (Gemma 2), or with sinks (gpt-oss); softmax in float32.

    Args:
        query_BNLd: Queries of the new positions.
        keys_BHTd: Keys of all visible positions.
        values_BHTd: Values of all visible positions.
        mask: Additive mask (B, 1, Q, T), or None.
        scaling: Factor of the scores; None: one over the root of d.
        softcap: Bound that the scores approach, before the mask.
        sinks_N: Score for each query head that takes its part of the softmax and has no value.
    """
    rows, num_heads, length, width = query_BNLd.shape
    num_kv_heads = keys_BHTd.shape[1]
    groups = num_heads // num_kv_heads
    folded = query_BNLd.reshape(rows, num_kv_heads, groups * length, width)
    scores = folded @ keys_BHTd.transpose(-1, -2) * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask[:, :, : groups * length]
    if sinks_N is not None:
        sinks = sinks_N.view(1, num_kv_heads, groups, 1, 1).expand(rows, -1, -1, length, 1)
        scores = torch.cat([scores, sinks.reshape(rows, num_kv_heads, groups * length, 1).to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query_BNLd.dtype)
    return (weights[..., : keys_BHTd.shape[2]] @ values_BHTd).reshape(rows, num_heads, length, width)


def folded_attention(
    module: torch.nn.Module,
    query_BNLd: Tensor,
    key_BHTd: Tensor,
    value_BHTd: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Run `attend` under transformers' interface; returns (B, L, N, d) as transformers expects.

    Raises:
        TargetIncompatibleError: The family passes an argument to its attention that is not supported here.
    """
    unknown = sorted(name for name, value in others.items() if name not in _WITHOUT_EFFECT and value is not None)
    if unknown:
        raise TargetIncompatibleError(
            f"{type(module).__name__} gives its attention {', '.join(unknown)}, which this engine does not compute; "
            "serve it on vLLM (engine vllm)",
            param="target.model",
        )
    keys, values, mask = within(key_BHTd, value_BHTd, attention_mask, sliding_window)
    if softcap is None and s_aux is None:
        return attend(query_BNLd, keys, values, mask, scaling).transpose(1, 2), None
    out = attend_capped(query_BNLd, keys, values, mask, scaling, softcap=softcap, sinks_N=s_aux)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, folded_attention)
