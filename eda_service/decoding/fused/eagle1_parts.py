"""A draft's weights in decoding form, in parts that several drafts of one batch may share.

What a pack did not train is the base draft's very object, so a batch of many packs multiplies it once for all rows;
what it trained (its private expert and gate, fc, its vocabulary) is applied to its own rows. Rows are grouped by the
identity of each part: a draft that shares nothing (full_ft, retrain, lora) works the same way, on its own rows alone.

Weights are packed copies; the draft they were made from may be dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eda_service.decoding.fused.ffn import PrivateFFN, SharedFFN, WholeFFN, as_expert
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.eagle1 import Eagle1Draft
from eda_service.drafts.head import DraftHead
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.targets.fused import Norm, norm_of
from eda_service.targets.packed import FrozenLinear, fuse_linears, make_linear, tensor_bytes


@dataclass(frozen=True)
class DraftParts:
    """One draft: what it shares with others is shared by identity.

    Attributes:
        config: The base draft's shape.
        ffn: The feed-forward module fused, or what of it drafts may share.
        private: Beside a shared `ffn`; None without one.
    """

    config: DraftConfig
    fc: FrozenLinear
    qkv: FrozenLinear
    out: FrozenLinear
    norm: Norm
    ffn: WholeFFN | SharedFFN
    private: PrivateFFN | None
    dtype: torch.dtype
    device: torch.device

    def own_bytes(self, base: DraftParts | None) -> int:
        """What this draft takes beside `base`."""
        parts = [self.fc, self.qkv, self.out, self.ffn, *([] if self.private is None else [self.private])]
        shared = [] if base is None else [base.fc, base.qkv, base.out, base.ffn, base.private]
        own = sum(part.size_bytes for part in parts if not any(part is other for other in shared))
        return own + (0 if base is not None and self.norm is base.norm else tensor_bytes(self.norm.doubled))


@dataclass(frozen=True)
class DraftForm:
    """A draft as a request uses it: its parts, and the rows of the target's head it scores."""

    parts: DraftParts
    head: DraftHead

    def own_bytes(self, base: DraftForm | None) -> int:
        """What this draft takes beside `base`, the rows of its head included."""
        own_head = base is None or self.head is not base.head
        return self.parts.own_bytes(None if base is None else base.parts) + self.head.linear.size_bytes * own_head


def whole_parts(draft: Draft) -> DraftParts:
    """A draft that shares nothing, in the fewest products.

    Args:
        draft: Any draft, LoRA merged; not changed.
    """
    return _parts(draft, WholeFFN(draft.ffn), None, None, None)


def shared_parts(draft: Draft) -> DraftParts:
    """A base draft that packs may share.

    Args:
        draft: Without a private expert; not changed.
    """
    return _parts(draft, SharedFFN(as_expert(draft.ffn)), None, None, None)


def adapted_parts(draft: Draft, base: DraftParts, trained: frozenset[str]) -> DraftParts:
    """A pack over a shared base draft.

    Args:
        draft: The base draft with the pack applied; not changed.
        base: `shared_parts` of the base draft.
        trained: Names of the tensors the pack changed.
    """
    ffn = draft.ffn
    if any("mlp." in name and ".private." not in name and ".mlp.gate." not in name for name in trained):
        return _parts(draft, WholeFFN(ffn), None, base, trained)
    private = PrivateFFN(ffn) if isinstance(ffn, SharedPrivateFFN) else None
    return _parts(draft, base.ffn, private, base, trained)


def _parts(
    draft: Draft,
    ffn: WholeFFN | SharedFFN,
    private: PrivateFFN | None,
    base: DraftParts | None,
    trained: frozenset[str] | None,
) -> DraftParts:
    assert isinstance(draft, Eagle1Draft)
    attention, norm = draft.layer.self_attn, draft.layer.post_attention_layernorm

    def same(*names: str) -> DraftParts | None:
        """The base, where none of these modules was trained."""
        changed = trained is None or any(f"{name}." in tensor for tensor in trained for name in names)
        return None if changed else base

    fc, qkv, out, normed = same("fc"), same("q_proj", "k_proj", "v_proj"), same("o_proj"), same("layernorm")
    return DraftParts(
        config=draft.config,
        fc=fc.fc if fc else make_linear(draft.fc.weight.detach()),
        qkv=qkv.qkv if qkv else fuse_linears([attention.q_proj, attention.k_proj, attention.v_proj]),
        out=out.out if out else make_linear(attention.o_proj.weight.detach()),
        norm=normed.norm if normed else norm_of(norm, draft.config.rms_norm_eps),
        ffn=ffn,
        private=private,
        dtype=norm.weight.dtype,
        device=norm.weight.device,
    )
