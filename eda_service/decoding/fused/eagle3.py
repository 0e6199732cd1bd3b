"""EAGLE-3 in its decoding form: the function of `drafts.eagle3`, each row with a draft of its own.

As with EAGLE-1, each group of weights is multiplied once for all rows that share it.

Shapes: B rows, L positions, C width of the target's states side by side, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eda_service.decoding.fused.ffn import FFNRows, PrivateFFN, SharedFFN, WholeFFN, adapted_ffn, as_expert
from eda_service.decoding.fused.one_layer import (
    AttentionParts,
    FusedLayer,
    LayerRows,
    Table,
    Trained,
    present,
    table_of,
)
from eda_service.decoding.fused.protocol import DraftParts, Weights
from eda_service.decoding.row_groups import RowGroups
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import Eagle3Config
from eda_service.drafts.eagle3 import Eagle3Draft, Eagle3Layer
from eda_service.targets.decoder.fused import Norm, norm_of, rms_norm
from eda_service.targets.decoder.packed import FrozenLinear, fuse_linears
from eda_service.targets.decoder.slots import SlotCache


@dataclass(frozen=True)
class Fuse:
    """The projection fc with its norms.

    Attributes:
        joint: Norms over the whole input of fc, applied one after the other.
        each: One norm for each target layer that fc reads.
        linear: The projection fc itself.
    """

    joint: tuple[Norm, ...]
    each: tuple[Norm, ...]
    linear: FrozenLinear

    @property
    def size_bytes(self) -> int:
        """Size of the weights in bytes."""
        return self.linear.size_bytes + sum(norm.size_bytes for norm in (*self.joint, *self.each))

    def __call__(self, x_BLC: Tensor) -> Tensor:
        """Project the target's states (B, L, C) to (B, L, D)."""
        for norm in self.joint:
            x_BLC = rms_norm(x_BLC, norm)
        if self.each:
            parts = zip(self.each, x_BLC.chunk(len(self.each), dim=-1), strict=True)
            x_BLC = torch.cat([rms_norm(part, norm) for norm, part in parts], dim=-1)
        out: Tensor = self.linear(x_BLC)
        return out


@dataclass(frozen=True)
class LayerNorms:
    """Norms of a draft's layer, and the norm of the state it feeds back if it feeds back the normed one."""

    embed: Norm
    state: Norm | None
    ffn: Norm
    output: Norm | None

    @property
    def size_bytes(self) -> int:
        """Size of the norms in bytes."""
        return sum(norm.size_bytes for norm in (self.embed, self.state, self.ffn, self.output) if norm is not None)


@dataclass(frozen=True)
class Eagle3Parts(DraftParts):
    """The parts of an EAGLE-3 draft; see `DraftParts`.

    Attributes:
        embed: The draft's own embedding; None: it uses the target's.
        fuse: The projection fc; None for a draft that reads the target's last state.
        ffn: The feed-forward module fused, or the part of it that drafts may share.
        private: The private expert beside a shared `ffn`; None without one.
    """

    embed: Table | None
    fuse: Fuse | None
    attention: AttentionParts
    norms: LayerNorms
    ffn: WholeFFN | SharedFFN
    private: PrivateFFN | None

    @property
    def weights(self) -> Sequence[Weights]:
        """See `DraftParts`."""
        attention = self.attention
        own = (self.embed, self.fuse, attention.qkv, attention.out, attention.norms, self.norms, self.ffn, self.private)
        return present(*own)


class FusedEagle3(FusedLayer):
    """See `FusedDraft`."""

    def rows(self, parts: Sequence[DraftParts]) -> Eagle3Rows:
        """See `FusedDraft`."""
        own = [each for each in parts if isinstance(each, Eagle3Parts)]
        assert len(own) == len(parts)
        return Eagle3Rows(self, own)


class Eagle3Rows:
    """See `DraftRows`.

    Args:
        fused: The module that all drafts of this shape share.
        parts: The draft of each row.
    """

    def __init__(self, fused: FusedEagle3, parts: Sequence[Eagle3Parts]) -> None:
        assert isinstance(fused.config, Eagle3Config)
        self._residual_normed, device = fused.config.norm_before_residual, fused.device
        self._layer = LayerRows(fused, parts)
        self._fuse = RowGroups.of([each.fuse for each in parts], device)
        self._norms = RowGroups.of([each.norms for each in parts], device)
        self._ffn = FFNRows([(each.ffn, each.private) for each in parts], device)

    def start(self, draft_in_BLC: Tensor) -> Tensor:
        """Return the state after fc, or the target's last state itself for drafts without fc."""
        return self._fuse.apply(lambda fuse, x: x if fuse is None else fuse(x), draft_in_BLC)

    def step(
        self, tokens_BL: Tensor, state_BLD: Tensor, positions_BL: Tensor, cache: SlotCache, mask: Tensor | None
    ) -> Tensor:
        """See `DraftRows`."""
        embeds_BLD = self._normed("embed", self._layer.embed(tokens_BL))
        normed_BLD = self._normed("state", state_BLD)
        residual_BLD = normed_BLD if self._residual_normed else state_BLD
        x_BLE = torch.cat([embeds_BLD, normed_BLD], dim=-1)
        hidden_BLD = residual_BLD + self._layer.attend(x_BLE, positions_BL, cache, mask)
        return self._normed("output", hidden_BLD + self._ffn(self._normed("ffn", hidden_BLD)))

    def _normed(self, name: str, x_BLD: Tensor) -> Tensor:
        """Apply the norm of this name where a draft has it."""

        def apply(norms: LayerNorms, x: Tensor) -> Tensor:
            norm: Norm | None = getattr(norms, name)
            return x if norm is None else rms_norm(x, norm)

        return self._norms.apply(apply, x_BLD)


class Eagle3Kind:
    """See `FusedKind`."""

    fused = FusedEagle3

    def whole_parts(self, draft: Draft) -> DraftParts:
        """See `FusedKind`."""
        return _parts(draft, WholeFFN(draft.ffn), None, None, Trained(None))

    def shared_parts(self, draft: Draft) -> DraftParts:
        """See `FusedKind`."""
        return _parts(draft, SharedFFN(as_expert(draft.ffn)), None, None, Trained(None))

    def adapted_parts(self, draft: Draft, base: DraftParts, trained: frozenset[str]) -> DraftParts:
        """See `FusedKind`."""
        assert isinstance(base, Eagle3Parts)
        return _parts(draft, *adapted_ffn(draft, base.ffn, trained), base, Trained(trained))


def _parts(
    draft: Draft,
    ffn: WholeFFN | SharedFFN,
    private: PrivateFFN | None,
    base: Eagle3Parts | None,
    trained: Trained,
) -> Eagle3Parts:
    assert isinstance(draft, Eagle3Draft)
    layer, weight = draft.layer, draft.norm.weight
    fuse = trained.unless(base, *draft.places.fuse)
    norms = trained.unless(base, "input_layernorm", "hidden_norm", "post_attention_layernorm", "norm")
    return Eagle3Parts(
        config=draft.config,
        dtype=weight.dtype,
        device=weight.device,
        embed=base.embed if base else table_of(draft),
        fuse=fuse.fuse if fuse else _fuse_of(draft),
        attention=AttentionParts.of(layer.self_attn, base.attention if base else None, trained),
        norms=norms.norms if norms else _norms_of(draft, layer),
        ffn=ffn,
        private=private,
    )


def _fuse_of(draft: Eagle3Draft) -> Fuse | None:
    if draft.fc is None:
        return None
    epsilon = draft.config.rms_norm_eps
    joint = [norm for norm in (draft.input_norm, draft.fc_norm) if isinstance(norm, nn.RMSNorm)]
    each = list(draft.fc_norm) if isinstance(draft.fc_norm, nn.ModuleList) else []
    joint_norms, layer_norms = (tuple(norm_of(norm, epsilon) for norm in norms) for norms in (joint, each))
    return Fuse(joint_norms, layer_norms, fuse_linears([draft.fc]))


def _norms_of(draft: Eagle3Draft, layer: Eagle3Layer) -> LayerNorms:
    epsilon = draft.config.rms_norm_eps
    return LayerNorms(
        embed=norm_of(layer.input_layernorm, epsilon),
        state=None if layer.hidden_norm is None else norm_of(layer.hidden_norm, epsilon),
        ffn=norm_of(layer.post_attention_layernorm, epsilon),
        output=norm_of(draft.norm, epsilon) if draft.shape.norm_output else None,
    )
