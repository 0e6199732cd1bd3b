"""What a forward of the target gives: the state its head reads, and the states a draft reads.

For a draft that reads what the head reads they are one tensor, never copied apart. The word *feature* means the second.

Shapes: L positions, D hidden, C width of what a draft reads.
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
        head_in: (.., D), after the final norm.
        draft_in: (.., C); `head_in` itself where the draft captures no layers.
    """

    head_in: Tensor
    draft_in: Tensor

    @classmethod
    def of(cls, head_in: Tensor, captured: Sequence[Tensor]) -> TargetStates:
        """Captured layers side by side; none: what the head reads."""
        return cls(head_in, torch.cat(list(captured), dim=-1) if captured else head_in)

    @classmethod
    def joined(cls, blocks: Sequence[TargetStates]) -> TargetStates:
        """Blocks (L, ..) one after the other."""
        head_in = torch.cat([block.head_in for block in blocks])
        if all(block.is_one for block in blocks):
            return cls(head_in, head_in)
        return cls(head_in, torch.cat([block.draft_in for block in blocks]))

    @property
    def is_one(self) -> bool:
        """Whether the draft reads what the head reads."""
        return self.draft_in is self.head_in

    def each(self, function: Callable[[Tensor], Tensor]) -> TargetStates:
        """A function of both, once where they are one."""
        head_in = function(self.head_in)
        return TargetStates(head_in, head_in if self.is_one else function(self.draft_in))

    def __getitem__(self, index: Any) -> TargetStates:
        return self.each(lambda states: states[index])
