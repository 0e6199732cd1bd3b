"""The shared-private FFN (Eqs. 3-5) over an engine's own experts, which may be split over tensor parallel ranks.

Each rank holds a part of both experts' widths and the whole gate. Eq. 5 is linear in the experts' outputs, so partial
outputs are mixed first and summed over the ranks once.

Shapes: D hidden; leading dimensions are free.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from eda_service.drafts.gate import Gate
from eda_service.drafts.shared_private import combine
from eda_service.export.files.eda_config import EdaConfig, ExportedGate


class ParallelFFN(nn.Module):
    """The module in the place of an engine's MLP; parameter names are those of the export.

    Args:
        eda: The export's `eda_config`, with a private expert.
        make_expert: Function from (name, width) to an engine's SwiGLU that leaves its partial sum to the caller.
        reduce: Function that sums over the ranks; the identity if the engine does that later.
    """

    def __init__(
        self, eda: EdaConfig, make_expert: Callable[[str, int], nn.Module], reduce: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        shared_width, private_width = eda.widths
        self.scale = eda.scale
        self.shared, self.private = make_expert("shared", shared_width), make_expert("private", private_width)
        self.gate = Gate(eda.draft.hidden_size) if eda.gate is ExportedGate.SOFTMAX else None
        self._reduce = reduce

    def forward(self, hidden: Tensor, forward_batch: object = None) -> Tensor:
        """Map hidden states (.., D) to (.., D); `forward_batch` is passed by SGLang to every MLP, and is not used."""
        gate_weights = None if self.gate is None else self.gate(hidden)
        return self._reduce(combine(self.shared(hidden), self.private(hidden), gate_weights, self.scale))
