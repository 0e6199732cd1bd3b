"""The draft in its decoding form: the function of `model.draft` (Eqs. 3-7), each row with a draft of its own.

Every group of weights is one product, over all rows that share it (`eagle1_parts`): with packs over one base draft
attention, norm and shared expert run once, and the private experts each over its own rows. The gate's weights scale
the experts' inner activations, which is the same sum.

Shapes: B rows, L positions, D hidden, F expert width, N query heads, H key/value heads, d head width, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eda_service.decoding.fused.eagle1_parts import DraftParts
from eda_service.decoding.fused.ffn import SharedFFN, SplitRows, WholeFFN
from eda_service.decoding.row_groups import RowGroups
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.rotary import angles
from eda_service.targets.attention import attend
from eda_service.targets.fused import rms_norm, rotate, rotation
from eda_service.targets.packed import FrozenLinear
from eda_service.targets.slots import SlotCache


def _multiply(groups: RowGroups[FrozenLinear], x: Tensor) -> Tensor:
    return groups.apply(lambda linear, rows: linear(rows), x)


class DraftRows:
    """The parts of a batch's drafts, grouped.

    Args:
        parts: The draft of each row.
        device: Where they are.
    """

    def __init__(self, parts: Sequence[DraftParts], device: torch.device) -> None:
        self.fc = RowGroups.of([each.fc for each in parts], device)
        self.qkv = RowGroups.of([each.qkv for each in parts], device)
        self.out = RowGroups.of([each.out for each in parts], device)
        self.norm = RowGroups.of([each.norm for each in parts], device)
        split = [row for row, each in enumerate(parts) if isinstance(each.ffn, SharedFFN)]
        whole = [row for row, each in enumerate(parts) if isinstance(each.ffn, WholeFFN)]
        self._split_rows = None if len(split) == len(parts) else torch.tensor(split, device=device)
        self._whole_rows = None if len(whole) == len(parts) else torch.tensor(whole, device=device)
        self._split, self._whole = _split_of([parts[row] for row in split], device), _whole_of(parts, device)

    def ffn(self, hidden_BLD: Tensor) -> Tensor:
        """Each row's experts (B, L, D)."""
        if self._whole is None and self._split is not None:
            return self._split(hidden_BLD)
        if self._split is None and self._whole is not None:
            return self._whole.apply(lambda part, x: part(x), hidden_BLD)
        assert self._split is not None
        assert self._whole is not None
        out_BLD = torch.empty_like(hidden_BLD)
        out_BLD[self._split_rows] = self._split(hidden_BLD[self._split_rows])
        out_BLD[self._whole_rows] = self._whole.apply(lambda part, x: part(x), hidden_BLD[self._whole_rows])
        return out_BLD


def _split_of(parts: Sequence[DraftParts], device: torch.device) -> SplitRows | None:
    shared = [each.ffn for each in parts if isinstance(each.ffn, SharedFFN)]
    return SplitRows(shared, [each.private for each in parts], device) if shared else None


def _whole_of(parts: Sequence[DraftParts], device: torch.device) -> RowGroups[WholeFFN] | None:
    whole = [each.ffn for each in parts if isinstance(each.ffn, WholeFFN)]
    return RowGroups.of(whole, device) if whole else None


class FusedDraft:
    """Drafts of one shape over one target, ready to decode.

    Args:
        config: Their shape.
        embed: The target's embedding.
        max_tokens: Positions the rotation table covers.
        dtype: Of their weights.
        device: Where they are.
    """

    def __init__(
        self, config: DraftConfig, embed: nn.Module, *, max_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.config, self.embed, self.dtype, self.device = config, embed, dtype, device
        self.cos_T1d, self.sin_T1d = self._table(max_tokens)

    def _table(self, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of every position."""
        positions_T = torch.arange(max_tokens, device=self.device)
        angles_Th = angles(positions_T, self.config.head_dim, self.config.rope_theta)
        angles_1Td = torch.cat([angles_Th, angles_Th], dim=-1)[None]
        cos, sin = rotation(angles_1Td.cos().to(self.dtype), angles_1Td.sin().to(self.dtype))
        return cos[0], sin[0]

    def new_cache(self, num_slots: int, max_tokens: int) -> SlotCache:
        """An empty cache of a draft's one layer."""
        return SlotCache(
            num_layers=1,
            num_slots=num_slots,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            max_tokens=max_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def __call__(
        self,
        drafts: DraftRows,
        tokens_BL: Tensor,
        features_BLD: Tensor,
        positions_BL: Tensor,
        cache: SlotCache,
        mask: Tensor | None,
    ) -> Tensor:
        """Features of the next positions (B, L, D) from x_{t+1} and h_t; keys and values go where the cache was
        told.
        """
        rows, length = tokens_BL.shape
        heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        x_BLD = _multiply(drafts.fc, torch.cat([self.embed(tokens_BL), features_BLD], dim=-1))
        qkv = _multiply(drafts.qkv, x_BLD).view(rows, length, heads + 2 * kv_heads, -1)
        rotated = rotate(qkv[:, :, : heads + kv_heads], self.cos_T1d[positions_BL], self.sin_T1d[positions_BL])
        keys, values = cache.write(rotated[:, :, heads:], qkv[:, :, heads + kv_heads :], 0)
        attended = attend(rotated[:, :, :heads].transpose(1, 2), keys, values, mask).transpose(1, 2)
        hidden_BLD = x_BLD + _multiply(drafts.out, attended.reshape(rows, length, -1))
        normed_BLD = drafts.norm.apply(lambda norm, x: rms_norm(x, norm), hidden_BLD)
        return hidden_BLD + drafts.ffn(normed_BLD)
