"""One expert, Eq. 6: E(h) = U phi(V h), as the SwiGLU of the target's own family.

V is the pair (gate_proj, up_proj) and U is down_proj, so that a base draft's FFN *is* a shared expert.

Shapes: D hidden, F expert width; leading dimensions are free.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Expert(nn.Module):
    """SwiGLU feed-forward without biases.

    Args:
        hidden_size: Hidden width D.
        width: F (m_s for the shared expert, m_p for the private one).
    """

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.gate_proj = nn.Linear(hidden_size, width, bias=False)
        self.up_proj = nn.Linear(hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states (.., D) to (.., D)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return out
