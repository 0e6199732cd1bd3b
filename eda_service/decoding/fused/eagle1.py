"""EAGLE-1 in its decoding form: the function of `drafts.eagle1` (Eqs. 3-7), each row with a draft of its own.

Each group of weights is multiplied once for all rows that share it: with packs over one base draft, attention, norm
and shared expert run once, and each private expert runs over its own rows. The gate's weights scale the experts'
inner activations, which gives the same sum.

Shapes: B rows, L positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eda_service.decoding.fused.ffn import FFNRows, PrivateFFN, SharedFFN, WholeFFN, adapted_ffn, as_expert
from eda_service.decoding.fused.one_layer import (
    AttentionParts,
    FusedLayer,
    LayerRows,
    Table,
    Trained,
    multiply,
    present,
    table_of,
)
from eda_service.decoding.fused.protocol import DraftParts, Weights
from eda_service.decoding.row_groups import RowGroups
from eda_service.drafts.draft import Draft
from eda_service.drafts.eagle1 import Eagle1Draft
from eda_service.targets.decoder.fused import Norm, norm_of, rms_norm
from eda_service.targets.decoder.packed import FrozenLinear, fuse_linears
from eda_service.targets.decoder.slots import SlotCache


@dataclass(frozen=True)
class Eagle1Parts(DraftParts):
    """The parts of an EAGLE-1 draft; see `DraftParts`.

    Attributes:
        embed: The draft's own embedding; None: it uses the target's.
        ffn: The feed-forward module fused, or the part of it that drafts may share.
        private: The private expert beside a shared `ffn`; None without one.
    """

    embed: Table | None
    fc: FrozenLinear
    attention: AttentionParts
    norm: Norm
    ffn: WholeFFN | SharedFFN
    private: PrivateFFN | None

    @property
    def weights(self) -> Sequence[Weights]:
        """See `DraftParts`."""
        attention = self.attention
        own = (self.embed, self.fc, attention.qkv, attention.out, attention.norms, self.norm, self.ffn, self.private)
        return present(*own)


class FusedEagle1(FusedLayer):
    """See `FusedDraft`."""

    def rows(self, parts: Sequence[DraftParts]) -> Eagle1Rows:
        """See `FusedDraft`."""
        own = [each for each in parts if isinstance(each, Eagle1Parts)]
        assert len(own) == len(parts)
        return Eagle1Rows(self, own)


class Eagle1Rows:
    """See `DraftRows`.

    Args:
        fused: The module that all drafts of this shape share.
        parts: The draft of each row.
    """

    def __init__(self, fused: FusedEagle1, parts: Sequence[Eagle1Parts]) -> None:
        self._layer = LayerRows(fused, parts)
        self._fc = RowGroups.of([each.fc for each in parts], fused.device)
        self._norm = RowGroups.of([each.norm for each in parts], fused.device)
        self._ffn = FFNRows([(each.ffn, each.private) for each in parts], fused.device)

    def start(self, draft_in_BLC: Tensor) -> Tensor:
        """Return the target's last state unchanged."""
        return draft_in_BLC

    def step(
        self, tokens_BL: Tensor, state_BLD: Tensor, positions_BL: Tensor, cache: SlotCache, mask: Tensor | None
    ) -> Tensor:
        """See `DraftRows`."""
        x_BLD = multiply(self._fc, torch.cat([self._layer.embed(tokens_BL), state_BLD], dim=-1))
        hidden_BLD = x_BLD + self._layer.attend(x_BLD, positions_BL, cache, mask)
        normed_BLD = self._norm.apply(lambda norm, x: rms_norm(x, norm), hidden_BLD)
        return hidden_BLD + self._ffn(normed_BLD)


class Eagle1Kind:
    """See `FusedKind`."""

    fused = FusedEagle1

    def whole_parts(self, draft: Draft) -> DraftParts:
        """See `FusedKind`."""
        return _parts(draft, WholeFFN(draft.ffn), None, None, Trained(None))

    def shared_parts(self, draft: Draft) -> DraftParts:
        """See `FusedKind`."""
        return _parts(draft, SharedFFN(as_expert(draft.ffn)), None, None, Trained(None))

    def adapted_parts(self, draft: Draft, base: DraftParts, trained: frozenset[str]) -> DraftParts:
        """See `FusedKind`."""
        assert isinstance(base, Eagle1Parts)
        return _parts(draft, *adapted_ffn(draft, base.ffn, trained), base, Trained(trained))


def _parts(
    draft: Draft,
    ffn: WholeFFN | SharedFFN,
    private: PrivateFFN | None,
    base: Eagle1Parts | None,
    trained: Trained,
) -> Eagle1Parts:
    assert isinstance(draft, Eagle1Draft)
    norm = draft.layer.post_attention_layernorm
    fc, normed = trained.unless(base, "fc"), trained.unless(base, "post_attention_layernorm")
    return Eagle1Parts(
        config=draft.config,
        dtype=norm.weight.dtype,
        device=norm.weight.device,
        embed=base.embed if base else table_of(draft),
        fc=fc.fc if fc else fuse_linears([draft.fc]),
        attention=AttentionParts.of(draft.layer.self_attn, base.attention if base else None, trained),
        norm=normed.norm if normed else norm_of(norm, draft.config.rms_norm_eps),
        ffn=ffn,
        private=private,
    )
