"""The shared-private gated FFN, Eqs. 3 and 5.

    u_s, u_p = E_s(h), E_p(h)                       (3)
    h~       = scale * (g_s u_s + g_p u_p)          (5), scale 1 as in the paper

Step 0 of an adaptation must equal the base draft. A private expert of the shared one's width starts as its copy,
which is exact for any softmax gate. A smaller one cannot be a copy: it starts with U = 0 and the output carries the
constant `scale = 2` (the number of experts), so that the even gate gives exactly u_s. With `Mix.SUM` a zero U is
exact as it is.

Shapes: D hidden; leading dimensions are free.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from eda_service.config.job import Mix
from eda_service.drafts.expert import Expert
from eda_service.drafts.gate import Gate


class SharedPrivateFFN(nn.Module):
    """Two experts combined by a gate, in place of the draft layer's FFN.

    Args:
        shared: The base draft's FFN; the caller freezes it.
        hidden_size: Hidden width D.
        private_width: Width of the private expert, m_p.
        mix: Way to combine the experts: joint softmax (Eq. 4) or plain sum.
    """

    def __init__(self, shared: Expert, *, hidden_size: int, private_width: int, mix: Mix) -> None:
        super().__init__()
        self.mix = mix
        self.shared = shared
        self.private = Expert(hidden_size, private_width)
        self.gate = Gate(hidden_size) if mix is Mix.SOFTMAX else None
        self.scale = 2.0 if mix is Mix.SOFTMAX and private_width != shared.width else 1.0
        self._start_neutral()

    def _start_neutral(self) -> None:
        if self.mix is Mix.SOFTMAX and self.private.width == self.shared.width:
            self.private.load_state_dict(copy.deepcopy(self.shared.state_dict()))
        else:
            nn.init.zeros_(self.private.down_proj.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states (.., D) to (.., D)."""
        gate_weights = None if self.gate is None else self.gate(hidden)
        return combine(self.shared(hidden), self.private(hidden), gate_weights, self.scale)


def combine(out_shared: Tensor, out_private: Tensor, gate_weights: Tensor | None, scale: float) -> Tensor:
    """Compute Eq. 5: the experts' outputs (.., D) weighted with gate_weights (.., 2); None for their plain sum."""
    if gate_weights is None:
        return out_shared + out_private
    mixed = gate_weights[..., :1] * out_shared + gate_weights[..., 1:] * out_private
    return mixed if scale == 1.0 else scale * mixed
