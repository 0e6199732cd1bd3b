"""Low-rank updates of a product, a different one for each row of the batch, without merging:

    y = W x + sum_v m_v B_v A_v x        (LoRA, Hu et al., 2021; m_v is 1 for the row's own adapter and 0 for others)

The A of all loaded adapters form one matrix and their B another, so the sum is two small products, however many
adapters there are: the first is multiplied by the rows' mask, the second adds to W x. In float32 the bits of a row
depend neither on the other rows nor on the other adapters (tests/unit/targets/adapters/test_adapters.py).

A product made of P linears over one input (qkv, gate-up) has P ranks side by side and B in blocks on the diagonal.

Shapes: B rows, L positions, R ranks of all adapters together, P linears of a product; leading dimensions are free.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eda_service.targets.decoder.packed import FrozenLinear, fuse_linears, make_linear


class AdapterRows:
    """The ranks that each row of a forward uses.

    Args:
        mask_BLR: Mask in the target's dtype: 1 at the ranks of the row's own adapter, else 0.
    """

    def __init__(self, mask_BLR: Tensor) -> None:
        self._by_linears = {1: mask_BLR}

    def mask(self, num_linears: int) -> Tensor:
        """Return the mask of a product of P linears (B, L, P * R)."""
        if num_linears not in self._by_linears:
            self._by_linears[num_linears] = self._by_linears[1].repeat(1, 1, num_linears)
        return self._by_linears[num_linears]


class AdaptedLinear:
    """One product over one or more linears, and the stacked updates of the loaded adapters.

    Args:
        linears: Linears over the same input; their outputs stand side by side.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.widths = [linear.out_features for linear in linears]
        self.in_features = linears[0].in_features
        self.base = fuse_linears(linears)
        self._down: FrozenLinear | None = None
        self._up: FrozenLinear | None = None

    def __call__(self, x: Tensor, adapters: AdapterRows | None) -> Tensor:
        """Map inputs (.., in) to outputs (.., out)."""
        y: Tensor = self.base(x)
        if adapters is None or self._down is None or self._up is None:
            return y
        return self._up.added(self._down(x).mul_(adapters.mask(len(self.widths))), y)

    @property
    def stack_bytes(self) -> int:
        """Bytes of the updates."""
        return sum(linear.size_bytes for linear in (self._down, self._up) if linear is not None)

    def stacked(self) -> tuple[Tensor, Tensor] | None:
        """Return A (P, R, in) and B (out, P, R) of the loaded adapters, unpacked; None if there are none."""
        if self._down is None or self._up is None:
            return None
        parts = len(self.widths)
        down = self._down.dense
        return down.view(parts, -1, self.in_features), self._up.dense.view(-1, parts, down.shape[0] // parts)

    def restack(self, stacks: tuple[Tensor, Tensor] | None) -> None:
        """Replace the updates by A (P, R, in) and B (out, P, R)."""
        if stacks is None:
            self._down = self._up = None
            return
        down_PRI, up_OPR = stacks
        self._down, self._up = make_linear(down_PRI.flatten(0, 1)), make_linear(up_OPR.flatten(1))

    def place(self, stacks: tuple[Tensor, Tensor], linear: int, first: int, a_RI: Tensor, b_OR: Tensor) -> None:
        """Write the update of one of the linears into stacks, at the ranks from `first` on."""
        down_PRI, up_OPR = stacks
        start, rank = sum(self.widths[:linear]), a_RI.shape[0]
        down_PRI[linear, first : first + rank] = a_RI
        up_OPR[start : start + self.widths[linear], linear, first : first + rank] = b_OR

    def new_stacks(self, num_ranks: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Make zero matrices A (P, R, in) and B (out, P, R)."""
        parts = len(self.widths)
        settings = {"dtype": dtype, "device": device}
        return (
            torch.zeros(parts, num_ranks, self.in_features, **settings),  # type: ignore[call-overload]
            torch.zeros(sum(self.widths), parts, num_ranks, **settings),  # type: ignore[call-overload]
        )
