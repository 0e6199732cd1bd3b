"""The gated draft inside SGLang (algorithm EAGLE): its EAGLE-1 Llama with the shared-private FFN.

Written against SGLang 0.5.23 (`sglang/srt/models/llama_eagle.py`), where the layer, not its MLP, sums over the ranks.
The server sets the draft vocabulary (`--speculative-token-map`) and passes the head's rows to the draft.
"""

from __future__ import annotations

from collections.abc import Iterable

from sglang.srt.layers.quantization.base_config import QuantizationConfig
from sglang.srt.models.llama import LlamaMLP
from sglang.srt.models.llama_eagle import LlamaForCausalLMEagle
from sglang.srt.runtime_context import get_parallel
from torch import Tensor, nn
from transformers import LlamaConfig

from eda_service.export.files.contents import require_tensors
from eda_service.export.files.eda_config import EdaConfig
from eda_service.export.parallel_ffn import ParallelFFN


class EdaForCausalLMEagle(LlamaForCausalLMEagle):
    """A draft exported with `--to sglang --form plugin`.

    Raises:
        TargetIncompatibleError: The tensor parallel size does not divide the heads or experts.
    """

    def __init__(self, config: LlamaConfig, quant_config: QuantizationConfig | None = None, prefix: str = "") -> None:
        eda = EdaConfig.model_validate(config.eda_config)
        eda.check_tensor_parallel(get_parallel().tp_size)
        super().__init__(config, quant_config, prefix)
        self.eda = eda
        layer = self.model.layers[0]
        reduces = bool(layer.mlp.down_proj.reduce_results)

        def make_expert(name: str, width: int) -> nn.Module:
            made: nn.Module = LlamaMLP(
                eda.draft.hidden_size,
                width,
                "silu",
                quant_config=quant_config,
                prefix=f"model.layers.0.mlp.{name}",
                reduce_results=reduces,
            )
            return made

        if eda.private is not None:
            layer.mlp = ParallelFFN(eda, make_expert, lambda partial: partial)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load every tensor of the export.

        Raises:
            ArtifactCorruptError: A tensor is missing or unknown.
        """
        tensors = dict(weights)
        require_tensors(self.eda, tensors)
        super().load_weights(tensors.items())


EntryClass = EdaForCausalLMEagle
