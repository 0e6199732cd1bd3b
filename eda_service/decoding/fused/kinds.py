"""The decoding form of each kind of draft, and the forms of loaded drafts."""

from __future__ import annotations

from torch import nn

from eda_service.decoding.fused.eagle1 import Eagle1Kind
from eda_service.decoding.fused.eagle3 import Eagle3Kind
from eda_service.decoding.fused.protocol import DraftParts, FusedDraft, FusedKind
from eda_service.drafts.draft import Draft

FUSED: dict[str, FusedKind] = {"eagle1": Eagle1Kind(), "eagle3": Eagle3Kind()}


def whole_parts(draft: Draft) -> DraftParts:
    """See `FusedKind`."""
    return FUSED[draft.config.kind].whole_parts(draft)


def shared_parts(draft: Draft) -> DraftParts:
    """See `FusedKind`."""
    return FUSED[draft.config.kind].shared_parts(draft)


def adapted_parts(draft: Draft, base: DraftParts, trained: frozenset[str]) -> DraftParts:
    """See `FusedKind`."""
    return FUSED[draft.config.kind].adapted_parts(draft, base, trained)


def fused_draft(parts: DraftParts, embed: nn.Module, *, max_tokens: int) -> FusedDraft:
    """Make what a draft of these parts shares with all drafts of its shape."""
    kind = FUSED[parts.config.kind]
    return kind.fused(parts.config, embed, max_tokens=max_tokens, dtype=parts.dtype, device=parts.device)
