"""The seam between the proposer and a kind of draft: the protocols by which decoding uses a draft.

A kind makes the parts of a draft, some of which several drafts of one batch may share, and the module that all drafts
of one shape share (`FusedDraft`). Parts of a batch's drafts become rows, which start from the target's states and step.

A part that a pack did not train is the same object as the base draft's, so a batch of many packs multiplies it once for
all rows; a part that it trained (its private expert and gate, fc, its vocabulary) is applied to its own rows. A draft
that shares nothing (full_ft, retrain, lora) works the same way, on its own rows alone.

Shapes: B rows, L positions, C width of the target's states that the draft reads, D hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.head import DraftHead
from eda_service.targets.decoder.slots import SlotCache


class Weights(Protocol):
    """Packed copies of some of a draft's weights."""

    @property
    def size_bytes(self) -> int:
        """Size of the weights in bytes."""
        ...


@dataclass(frozen=True)
class DraftParts(ABC):
    """One draft in parts. Drafts that share a part hold the same object.

    Attributes:
        config: The shape of the base draft.
    """

    config: DraftConfig
    dtype: torch.dtype
    device: torch.device

    @property
    @abstractmethod
    def weights(self) -> Sequence[Weights]:
        """All weights of the draft, each once."""

    def own_bytes(self, base: DraftParts | None) -> int:
        """Count the bytes of this draft that `base` does not share."""
        shared = [] if base is None else base.weights
        return sum(part.size_bytes for part in self.weights if not any(part is other for other in shared))


@dataclass(frozen=True)
class DecodingDraft:
    """A draft as a request uses it: its parts, and the head that scores its states."""

    parts: DraftParts
    head: DraftHead

    def own_bytes(self, base: DecodingDraft | None) -> int:
        """Count the bytes of this draft that `base` does not share, with the rows of its head."""
        own_head = base is None or self.head is not base.head
        return self.parts.own_bytes(None if base is None else base.parts) + self.head.size_bytes * own_head


class DraftRows(Protocol):
    """The drafts of a batch, each on its own row."""

    def start(self, draft_in_BLC: Tensor) -> Tensor:
        """Turn the target's states into the states (B, L, D) that a step reads."""
        ...

    def step(
        self, tokens_BL: Tensor, state_BLD: Tensor, positions_BL: Tensor, cache: SlotCache, mask: Tensor | None
    ) -> Tensor:
        """Return the states (B, L, D) after the tokens x_{t+1}, from the states at t; keys and values are written to
        the cache's current slots.
        """
        ...


class FusedDraft(Protocol):
    """The weights and settings that drafts of one shape over one target share."""

    @property
    def num_groups(self) -> int:
        """Number of query heads that share one key/value head."""
        ...

    def new_cache(self, num_slots: int, max_tokens: int) -> SlotCache:
        """Make an empty cache of the draft's layers."""
        ...

    def rows(self, parts: Sequence[DraftParts]) -> DraftRows:
        """Put the drafts of a batch into rows."""
        ...


class FusedKind(Protocol):
    """Turns drafts of one kind into parts. The draft is not changed and may be dropped: parts are packed copies."""

    def whole_parts(self, draft: Draft) -> DraftParts:
        """Pack a draft that shares nothing, LoRA merged, into as few products as possible."""
        ...

    def shared_parts(self, draft: Draft) -> DraftParts:
        """Pack a base draft so that packs may share it."""
        ...

    def adapted_parts(self, draft: Draft, base: DraftParts, trained: frozenset[str]) -> DraftParts:
        """Pack the base draft with a pack applied, over its `shared_parts`; `trained` names the tensors the pack
        changed.
        """
        ...

    def fused(
        self, config: DraftConfig, embed: nn.Module, *, max_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> FusedDraft:
        """Make what drafts of this shape share, for positions below `max_tokens`; `embed` is the target's embedding."""
        ...
