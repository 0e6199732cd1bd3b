"""The gated EAGLE-3 draft inside vLLM (method `eagle3`): its own classes with the shared-private FFN.

Written against vLLM 0.32 (`vllm/model_executor/models/llama_eagle3.py` and `qwen3_eagle3.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.llama_eagle3 import Eagle3LlamaForCausalLM
from vllm.model_executor.models.qwen3_eagle3 import Eagle3Qwen3ForCausalLM

from eda_service.export.files.contents import require_tensors
from eda_service.export.vllm_model import config_of, keep_gate
from eda_service.export.vllm_packs import spread_rows


class _Gated:
    """Additions of both classes to vLLM's own: the gate between the experts, and the check that every tensor is
    present.

    Raises:
        TargetIncompatibleError: The target has another shape, or the tensor parallel size does not divide heads or
            experts.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        eda = config_of(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]  # vLLM's class comes next
        self.eda = eda
        self.packs = keep_gate(self, eda, vllm_config, prefix)

    def forward(
        self, input_ids: Tensor, positions: Tensor, hidden_states: Tensor, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run vLLM's own forward; with several packs, set the place of each row first."""
        if self.packs is not None:
            spread_rows(self.packs.rows, hidden_states.shape[0])
        states: tuple[Tensor, Tensor] = super().forward(  # type: ignore[misc]
            input_ids, positions, hidden_states, inputs_embeds
        )
        return states

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load every tensor of the export.

        Raises:
            ArtifactCorruptError: A tensor is missing or unknown.
        """
        tensors = dict(weights)
        require_tensors(self.eda, tensors)
        if self.packs is not None:
            tensors = self.packs.load(tensors)
        super().load_weights(tensors.items())  # type: ignore[misc]


class Eagle3EdaForCausalLM(_Gated, Eagle3LlamaForCausalLM):
    """A draft of kind `eagle3` exported with `--to vllm --form plugin`."""


class Eagle3EdaQwen3ForCausalLM(_Gated, Eagle3Qwen3ForCausalLM):
    """A draft of kind `eagle3` with normed queries and keys, exported with `--to vllm --form plugin`."""
