"""EAGLE-1 in its decoding form: the function of `drafts.eagle1` (Eqs. 3-7), each row with a draft of its own.

Every group of weights is one product, over all rows that share it (`eagle1_parts`): with packs over one base draft
attention, norm and shared expert run once, and the private experts each over its own rows. The gate's weights scale
the experts' inner activations, which is the same sum.

Shapes: B rows, L positions, D hidden, F expert width, N query heads, H key/value heads, d head width, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eda_service.decoding.fused.eagle1_parts import Eagle1Parts
from eda_service.decoding.fused.ffn import FFNRows
from eda_service.decoding.fused.form import DraftParts
from eda_service.decoding.row_groups import RowGroups
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.rotary import angles
from eda_service.targets.attention import attend
from eda_service.targets.fused import rms_norm, rotate, rotation
from eda_service.targets.packed import FrozenLinear
from eda_service.targets.slots import SlotCache


def _multiply(groups: RowGroups[FrozenLinear], x: Tensor) -> Tensor:
    return groups.apply(lambda linear, rows: linear(rows), x)


class FusedEagle1:
    """See `FusedDraft`.

    Args:
        config: The drafts' shape.
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

    @property
    def num_groups(self) -> int:
        """See `FusedDraft`."""
        return self.config.num_heads // self.config.num_kv_heads

    def new_cache(self, num_slots: int, max_tokens: int) -> SlotCache:
        """See `FusedDraft`; one layer."""
        return SlotCache(
            num_layers=1,
            num_slots=num_slots,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            max_tokens=max_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def rows(self, parts: Sequence[DraftParts]) -> Eagle1Rows:
        """See `FusedDraft`."""
        own = [each for each in parts if isinstance(each, Eagle1Parts)]
        assert len(own) == len(parts)
        return Eagle1Rows(self, own)


class Eagle1Rows:
    """See `DraftRows`.

    Args:
        fused: What they share.
        parts: The draft of each row.
    """

    def __init__(self, fused: FusedEagle1, parts: Sequence[Eagle1Parts]) -> None:
        device = fused.device
        self._fused = fused
        self._fc = RowGroups.of([each.fc for each in parts], device)
        self._qkv = RowGroups.of([each.qkv for each in parts], device)
        self._out = RowGroups.of([each.out for each in parts], device)
        self._norm = RowGroups.of([each.norm for each in parts], device)
        self._ffn = FFNRows([(each.ffn, each.private) for each in parts], device)

    def start(self, draft_in_BLC: Tensor) -> Tensor:
        """The target's last state itself."""
        return draft_in_BLC

    def step(
        self, tokens_BL: Tensor, state_BLD: Tensor, positions_BL: Tensor, cache: SlotCache, mask: Tensor | None
    ) -> Tensor:
        """See `DraftRows`."""
        rows, length = tokens_BL.shape
        fused, config = self._fused, self._fused.config
        heads, kv_heads = config.num_heads, config.num_kv_heads
        x_BLD = _multiply(self._fc, torch.cat([fused.embed(tokens_BL), state_BLD], dim=-1))
        qkv = _multiply(self._qkv, x_BLD).view(rows, length, heads + 2 * kv_heads, -1)
        rotated = rotate(qkv[:, :, : heads + kv_heads], fused.cos_T1d[positions_BL], fused.sin_T1d[positions_BL])
        keys, values = cache.write(rotated[:, :, heads:], qkv[:, :, heads + kv_heads :], 0)
        attended = attend(rotated[:, :, :heads].transpose(1, 2), keys, values, mask).transpose(1, 2)
        hidden_BLD = x_BLD + _multiply(self._out, attended.reshape(rows, length, -1))
        normed_BLD = self._norm.apply(lambda norm, x: rms_norm(x, norm), hidden_BLD)
        return hidden_BLD + self._ffn(normed_BLD)
