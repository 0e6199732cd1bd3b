"""The gate, Eq. 4: one joint softmax over the logits of the shared and the private expert.

    [g_s, g_p] = softmax([h w_s, h w_p])

The released code takes a softmax inside each group of one expert, which is constantly 1; that form is `Mix.SUM` in
`shared_private`, not a gate.

Shapes: D hidden; leading dimensions are free.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Routing weights of the two experts.

    Args:
        hidden_size: Hidden width D. The weight is (2, D): row 0 is w_s, row 1 is w_p; both start at zero, so that both
            experts start with equal weight.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(hidden_size, 2, bias=False)
        nn.init.zeros_(self.proj.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute gate_weights (.., 2), summing to 1; the softmax is taken in float32."""
        logits = self.proj(hidden)
        weights = torch.softmax(logits.float(), dim=-1)
        return weights.to(hidden.dtype)
