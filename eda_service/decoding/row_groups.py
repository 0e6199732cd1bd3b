"""Rows of a batch grouped by which of several parts they use: one call where all share one, else one per part.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class RowGroups(Generic[PartT]):
    """Parts with their rows.

    Attributes:
        groups: Each part once, with the indices of its rows; None if all rows use it.
    """

    groups: Sequence[tuple[PartT, Tensor | None]]

    @classmethod
    def of(cls, parts: Sequence[PartT], device: torch.device) -> RowGroups[PartT]:
        """Group rows by the identity of their part, in order of first appearance."""
        rows: dict[int, list[int]] = {}
        for row, part in enumerate(parts):
            rows.setdefault(id(part), []).append(row)
        if len(rows) == 1:
            return cls([(parts[0], None)])
        return cls([(parts[each[0]], torch.tensor(each, device=device)) for each in rows.values()])

    def apply(self, call: Callable[[PartT, Tensor], Tensor], x_B: Tensor) -> Tensor:
        """Call `call` on each part with its rows of `x_B`; return the results in the order of the rows."""
        out: Tensor | None = None
        for part, rows in self.groups:
            if rows is None:
                return call(part, x_B)
            y = call(part, x_B[rows])
            if out is None:
                out = y.new_empty(len(x_B), *y.shape[1:])
            out[rows] = y
        assert out is not None
        return out
