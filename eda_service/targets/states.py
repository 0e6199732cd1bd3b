"""The states that a forward of the target gives: the one its head reads, and those a draft reads.

If a draft reads what the head reads, they are one tensor, which is not copied. The word *feature* means the draft's.

Shapes: L positions, D hidden, C width of the draft's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TargetStates:
    """States of the same positions.

    Attributes:
        head_in: Input of the head (.., D), after the final norm.
        draft_in: Input of the draft (.., C); `head_in` itself if the draft captures no layers.
    """

    head_in: Tensor
    draft_in: Tensor

    @classmethod
    def of(cls, head_in: Tensor, captured: Sequence[Tensor]) -> TargetStates:
        """Put captured layers side by side; without any, the draft's input is the head's."""
        return cls(head_in, torch.cat(list(captured), dim=-1) if captured else head_in)

    @classmethod
    def joined(cls, blocks: Sequence[TargetStates]) -> TargetStates:
        """Join blocks (L, ..) one after the other."""
        head_in = torch.cat([block.head_in for block in blocks])
        if all(block.is_one for block in blocks):
            return cls(head_in, head_in)
        return cls(head_in, torch.cat([block.draft_in for block in blocks]))

    @property
    def is_one(self) -> bool:
        """Whether the draft's input is the head's."""
        return self.draft_in is self.head_in

    def each(self, function: Callable[[Tensor], Tensor]) -> TargetStates:
        """Apply a function to both states, once if they are the same tensor."""
        head_in = function(self.head_in)
        return TargetStates(head_in, head_in if self.is_one else function(self.draft_in))

    def __getitem__(self, index: Any) -> TargetStates:
        return self.each(lambda states: states[index])
