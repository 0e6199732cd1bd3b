"""EAGLE-1's weights in decoding form, in parts that several drafts of one batch may share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eda_service.decoding.fused.ffn import PrivateFFN, SharedFFN, WholeFFN, adapted_ffn, as_expert
from eda_service.decoding.fused.form import DraftParts, Weights
from eda_service.drafts.draft import Draft
from eda_service.drafts.eagle1 import Eagle1Draft
from eda_service.targets.fused import Norm, norm_of
from eda_service.targets.packed import FrozenLinear, fuse_linears, make_linear


@dataclass(frozen=True)
class Eagle1Parts(DraftParts):
    """See `DraftParts`.

    Attributes:
        ffn: The feed-forward module fused, or what of it drafts may share.
        private: Beside a shared `ffn`; None without one.
    """

    fc: FrozenLinear
    qkv: FrozenLinear
    out: FrozenLinear
    norm: Norm
    ffn: WholeFFN | SharedFFN
    private: PrivateFFN | None

    @property
    def weights(self) -> Sequence[Weights]:
        """See `DraftParts`."""
        return [self.fc, self.qkv, self.out, self.norm, self.ffn, *([] if self.private is None else [self.private])]


def whole_parts(draft: Draft) -> Eagle1Parts:
    """See `FusedKind`."""
    return _parts(draft, WholeFFN(draft.ffn), None, None, None)


def shared_parts(draft: Draft) -> Eagle1Parts:
    """See `FusedKind`."""
    return _parts(draft, SharedFFN(as_expert(draft.ffn)), None, None, None)


def adapted_parts(draft: Draft, base: DraftParts, trained: frozenset[str]) -> Eagle1Parts:
    """See `FusedKind`."""
    assert isinstance(base, Eagle1Parts)
    ffn, private = adapted_ffn(draft, base.ffn, trained)
    return _parts(draft, ffn, private, base, trained)


def _parts(
    draft: Draft,
    ffn: WholeFFN | SharedFFN,
    private: PrivateFFN | None,
    base: Eagle1Parts | None,
    trained: frozenset[str] | None,
) -> Eagle1Parts:
    assert isinstance(draft, Eagle1Draft)
    attention, norm = draft.layer.self_attn, draft.layer.post_attention_layernorm

    def same(*names: str) -> Eagle1Parts | None:
        """The base, where none of these modules was trained."""
        changed = trained is None or any(f"{name}." in tensor for tensor in trained for name in names)
        return None if changed else base

    fc, qkv, out, normed = same("fc"), same("q_proj", "k_proj", "v_proj"), same("o_proj"), same("layernorm")
    return Eagle1Parts(
        config=draft.config,
        dtype=norm.weight.dtype,
        device=norm.weight.device,
        fc=fc.fc if fc else make_linear(draft.fc.weight.detach()),
        qkv=qkv.qkv if qkv else fuse_linears([attention.q_proj, attention.k_proj, attention.v_proj]),
        out=out.out if out else make_linear(attention.o_proj.weight.detach()),
        norm=normed.norm if normed else norm_of(norm, draft.config.rms_norm_eps),
        ffn=ffn,
        private=private,
    )
