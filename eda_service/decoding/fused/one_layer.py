"""Common parts of the fused drafts with one decoder layer: rotation, cache, and the attention of a batch's drafts.

Shapes: B rows, L positions, N query heads, H key/value heads, d head width, E width of the attention's input, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from eda_service.decoding.fused.protocol import Weights
from eda_service.decoding.row_groups import RowGroups
from eda_service.drafts.attention import DraftAttention
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.rotary import angles, attention_factor
from eda_service.targets.decoder.attention import attend
from eda_service.targets.decoder.fused import Norm, norm_of, rms_norm, rotate, rotation
from eda_service.targets.decoder.packed import FrozenLinear, fuse_linears
from eda_service.targets.decoder.slots import SlotCache

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class Trained:
    """The tensors that a pack changed.

    Attributes:
        names: Names of the tensors; None for a draft that shares nothing.
    """

    names: frozenset[str] | None

    def unless(self, base: PartT | None, *modules: str) -> PartT | None:
        """Return `base`, the part that packs share, unless the pack trained a tensor of one of these modules."""
        if self.names is None:
            return None
        changed = {part for name in self.names for part in name.split(".")}
        return None if changed.intersection(modules) else base


@dataclass(frozen=True)
class Table:
    """An embedding that belongs to the draft.

    Attributes:
        rows_VD: The weight.
    """

    rows_VD: Tensor

    @property
    def size_bytes(self) -> int:
        """Size of the weight in bytes."""
        return self.rows_VD.numel() * self.rows_VD.element_size()

    def __call__(self, tokens_BL: Tensor) -> Tensor:
        """Look up the embeddings (B, L, D) of the tokens."""
        return nn.functional.embedding(tokens_BL, self.rows_VD)


@dataclass(frozen=True)
class HeadNorms:
    """Norms of each query and key head."""

    query: Norm
    key: Norm

    @property
    def size_bytes(self) -> int:
        """Size of the norms in bytes."""
        return self.query.size_bytes + self.key.size_bytes


@dataclass(frozen=True)
class AttentionParts:
    """An attention in as few products as possible; drafts that share a part hold the same object."""

    qkv: FrozenLinear
    out: FrozenLinear
    norms: HeadNorms | None

    @classmethod
    def of(cls, attention: DraftAttention, base: AttentionParts | None, trained: Trained) -> AttentionParts:
        """Pack copies of an attention; a part that the pack did not train is the base draft's own object."""
        qkv, out = trained.unless(base, "q_proj", "k_proj", "v_proj"), trained.unless(base, "o_proj")
        norms = trained.unless(base, "q_norm", "k_norm")
        epsilon = attention.config.rms_norm_eps
        own_norms = None
        if attention.q_norm is not None and attention.k_norm is not None and norms is None:
            own_norms = HeadNorms(norm_of(attention.q_norm, epsilon), norm_of(attention.k_norm, epsilon))
        return cls(
            qkv=qkv.qkv if qkv else fuse_linears([attention.q_proj, attention.k_proj, attention.v_proj]),
            out=out.out if out else fuse_linears([attention.o_proj]),
            norms=norms.norms if norms else own_norms,
        )


class _Parts(Protocol):
    @property
    def attention(self) -> AttentionParts: ...

    @property
    def embed(self) -> Table | None: ...


def table_of(draft: Draft) -> Table | None:
    """Return a draft's own embedding, if it has one; no training method changes it."""
    module = draft.embedding(nn.Identity())
    return Table(module.weight.detach()) if isinstance(module, nn.Embedding) else None


def present(*weights: Weights | None) -> list[Weights]:
    """Return the weights that are not None."""
    return [each for each in weights if each is not None]


def multiply(groups: RowGroups[FrozenLinear], x: Tensor) -> Tensor:
    """Multiply each row by the weights of its draft."""
    return groups.apply(lambda linear, rows: linear(rows), x)


class FusedLayer:
    """Settings and tables that drafts of one shape share; see `FusedDraft`.

    Args:
        config: The drafts' shape.
        embed: The target's embedding.
        max_tokens: Positions the rotation table covers.
        dtype: Dtype of the drafts' weights.
        device: Device of the drafts.
    """

    def __init__(
        self, config: DraftConfig, embed: nn.Module, *, max_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.config, self.embed, self.dtype, self.device = config, embed, dtype, device
        self.cos_T1d, self.sin_T1d = self._table(max_tokens)

    def _table(self, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Compute cosines and signed sines of all positions."""
        config, positions_T = self.config, torch.arange(max_tokens, device=self.device)
        angles_Th = angles(positions_T, config.head_dim, config.rope_theta, config.rope_scaling)
        angles_1Td = torch.cat([angles_Th, angles_Th], dim=-1)[None]
        cos_1Td, sin_1Td = angles_1Td.cos(), angles_1Td.sin()
        factor = attention_factor(config.head_dim, config.rope_theta, config.rope_scaling)
        if factor != 1.0:
            cos_1Td, sin_1Td = cos_1Td * factor, sin_1Td * factor
        cos, sin = rotation(cos_1Td.to(self.dtype), sin_1Td.to(self.dtype))
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


class LayerRows:
    """Embedding and attention of a batch's drafts, each on its own row.

    Args:
        fused: The module that all drafts of this shape share.
        parts: The draft of each row.
    """

    def __init__(self, fused: FusedLayer, parts: Sequence[_Parts]) -> None:
        device = fused.device
        self._fused = fused
        self._embed = RowGroups.of([fused.embed if each.embed is None else each.embed for each in parts], device)
        self._qkv = RowGroups.of([each.attention.qkv for each in parts], device)
        self._out = RowGroups.of([each.attention.out for each in parts], device)
        self._norms = RowGroups.of([each.attention.norms for each in parts], device)

    def embed(self, tokens_BL: Tensor) -> Tensor:
        """Look up the embeddings (B, L, D) of the tokens."""
        return self._embed.apply(lambda embed, tokens: embed(tokens), tokens_BL)

    def attend(self, x_BLE: Tensor, positions_BL: Tensor, cache: SlotCache, mask: Tensor | None) -> Tensor:
        """Compute the attention's output (B, L, D)."""
        rows, length = positions_BL.shape
        fused, config = self._fused, self._fused.config
        heads, both = config.num_heads, config.num_heads + config.num_kv_heads
        qkv = multiply(self._qkv, x_BLE).view(rows, length, both + config.num_kv_heads, -1)
        query_key = self._norms.apply(lambda norms, x: _normed(x, norms, heads), qkv[:, :, :both])
        rotated = rotate(query_key, fused.cos_T1d[positions_BL], fused.sin_T1d[positions_BL])
        keys, values = cache.write(rotated[:, :, heads:], qkv[:, :, both:], 0)
        attended = attend(rotated[:, :, :heads].transpose(1, 2), keys, values, mask).transpose(1, 2)
        return multiply(self._out, attended.reshape(rows, length, -1))


def _normed(query_key: Tensor, norms: HeadNorms | None, num_heads: int) -> Tensor:
    if norms is None:
        return query_key
    query, key = query_key[:, :, :num_heads], query_key[:, :, num_heads:]
    return torch.cat([rms_norm(query, norms.query), rms_norm(key, norms.key)], dim=2)
