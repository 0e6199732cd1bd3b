"""The gated draft inside vLLM (method `eagle`): its EAGLE-1 Llama with the shared-private FFN and a draft vocabulary.

Written against vLLM 0.32 (`vllm/model_executor/models/llama_eagle.py`; the draft vocabulary as in `llama_eagle3.py`).

Shapes: N tokens of a batch, D hidden, V vocabulary, W draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.llama import LlamaMLP
from vllm.model_executor.models.llama_eagle import EagleLlamaForCausalLM
from vllm.model_executor.models.utils import get_draft_quant_config, maybe_prefix

from eda_service.export.files.contents import D2T, require_tensors
from eda_service.export.files.eda_config import EdaConfig
from eda_service.export.packed.draft_packs import DraftPacks
from eda_service.export.parallel_ffn import ParallelFFN
from eda_service.export.vllm_packs import make_packs, require_worker, spread_rows


def config_of(vllm_config: VllmConfig) -> EdaConfig:
    """Read the `eda_config` of the draft that is loaded.

    Raises:
        TargetIncompatibleError: The target has another shape, or the tensor parallel size does not divide heads or
            experts.
        InputError: The export has several packs, and vLLM's worker does not pass on which adapter a request has.
    """
    eda = EdaConfig.model_validate(vllm_config.speculative_config.draft_model_config.hf_config.eda_config)
    require_worker(eda, vllm_config)
    target = vllm_config.model_config
    eda.check_verifier(hidden_size=target.get_hidden_size(), vocab_size=target.get_vocab_size())
    eda.check_tensor_parallel(get_tensor_model_parallel_world_size())
    return eda


def keep_gate(model: Any, eda: EdaConfig, vllm_config: VllmConfig, prefix: str) -> DraftPacks | None:
    """Replace a draft's MLP by the shared-private FFN, if the export has one, or by places for several packs, which are
    returned.

    Args:
        model: An engine's draft with `model.layers`.
        eda: The export's `eda_config`.
        vllm_config: Config that vLLM passed to the draft.
        prefix: Prefix that vLLM passed to the draft.
    """
    if eda.private is None and eda.places is None:
        return None
    quantization, where = get_draft_quant_config(vllm_config), maybe_prefix(prefix, "model.layers.0.mlp")

    def make_expert(name: str, width: int) -> nn.Module:
        made: nn.Module = LlamaMLP(
            eda.draft.hidden_size,
            width,
            "silu",
            quant_config=quantization,
            prefix=f"{where}.{name}",
            reduce_results=False,
        )
        return made

    if eda.places is not None:
        return make_packs(model, eda, eda.places, vllm_config, make_expert)
    model.model.layers[0].mlp = ParallelFFN(eda, make_expert, tensor_model_parallel_all_reduce)
    return None


class EagleEdaForCausalLM(EagleLlamaForCausalLM):
    """A draft exported with `--to vllm --form plugin`.

    Raises:
        TargetIncompatibleError: The target has another shape, or the tensor parallel size does not divide heads or
            experts.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        eda = config_of(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.eda = eda
        quantization = get_draft_quant_config(vllm_config)
        self.packs = keep_gate(self, eda, vllm_config, prefix)
        self.draft_id_to_target_id: nn.Parameter | None = None
        if eda.draft_vocab_size is not None:
            self.lm_head = ParallelLMHead(
                eda.draft_vocab_size,
                eda.draft.hidden_size,
                quant_config=quantization,
                prefix=maybe_prefix(prefix, "lm_head"),
            )
            self.logits_processor = LogitsProcessor(eda.draft_vocab_size)
            offsets_W = torch.zeros(eda.draft_vocab_size, dtype=torch.long)
            self.draft_id_to_target_id = nn.Parameter(offsets_W, requires_grad=False)

    def forward(
        self, input_ids: Tensor, positions: Tensor, hidden_states: Tensor, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run vLLM's own forward; with several packs, set the place of each row first."""
        if self.packs is not None:
            spread_rows(self.packs.rows, hidden_states.shape[0])
        states: tuple[Tensor, Tensor] = super().forward(input_ids, positions, hidden_states, inputs_embeds)
        return states

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Compute logits (N, V) of hidden states (N, D); a token outside the draft vocabulary has minus infinity."""
        logits_NW: Tensor | None = self.logits_processor(self.lm_head, hidden_states)
        if self.packs is not None and self.packs.vocabulary is not None and logits_NW is not None:
            logits_of_packs_NV: Tensor = self.packs.vocabulary(logits_NW)
            return logits_of_packs_NV
        if self.draft_id_to_target_id is None or logits_NW is None:
            return logits_NW
        ids_W = torch.arange(logits_NW.shape[1], device=logits_NW.device) + self.draft_id_to_target_id
        logits_NV = logits_NW.new_full((logits_NW.shape[0], self.config.vocab_size), float("-inf"))
        logits_NV[:, ids_W] = logits_NW
        return logits_NV

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load every tensor of the export.

        Raises:
            ArtifactCorruptError: A tensor is missing or unknown.
        """
        tensors = dict(weights)
        require_tensors(self.eda, tensors)
        if self.packs is not None:
            tensors = self.packs.load(tensors)
        offsets_W = tensors.pop(D2T, None)
        if self.draft_id_to_target_id is not None and offsets_W is not None:
            self.draft_id_to_target_id.data.copy_(offsets_W)
        super().load_weights(tensors.items())
