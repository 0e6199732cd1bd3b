"""The tensors and the config.json of an export, for each destination.

This module writes EAGLE-1; `eagle3` writes EAGLE-3, and any other kind is not exported. Names are those of the EAGLE-1
checkpoints that vLLM and SGLang load (`fc`, `layers.0...`); a kept gate adds `mlp.shared`, `mlp.private` and
`mlp.gate`. Embedding and lm_head are the target's, except that

* vLLM's plugin with a draft vocabulary gets the head's rows and `d2t` (target id less draft id), as EAGLE-3 has them,
* SGLang's `fc` has a bias (zeros where the draft has none), and its draft vocabulary is a token map file,
* the hub's own layout carries `d2t` alone.

Shapes: D hidden, V vocabulary, W draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from eda_service.drafts.dialects.names import T2D
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.kinds import make_draft
from eda_service.errors import ArtifactCorruptError, TargetIncompatibleError
from eda_service.export.files.eda_config import Destination, EdaConfig, ExportForm
from eda_service.export.files.values import widest
from eda_service.export.packed.pack_parts import pack_shapes
from eda_service.export.vllm_plugin import ARCHITECTURE as VLLM_PLUGIN
from eda_service.targets.head import LmHead

D2T, HEAD, BIAS = "d2t", "lm_head.weight", "fc.bias"
TOKEN_MAP = "token_map.pt"
SGLANG_PLUGIN = "EdaForCausalLMEagle"
_ARCHITECTURES = {
    (Destination.VLLM, ExportForm.DENSE): "LlamaForCausalLM",
    (Destination.VLLM, ExportForm.PLUGIN): VLLM_PLUGIN,
    (Destination.SGLANG, ExportForm.DENSE): "LlamaForCausalLMEagle",
    (Destination.SGLANG, ExportForm.PLUGIN): SGLANG_PLUGIN,
    (Destination.HF, ExportForm.DENSE): "LlamaForCausalLM",
    (Destination.HF, ExportForm.PLUGIN): VLLM_PLUGIN,
}


def tensors_of(
    config: DraftConfig,
    tensors: Mapping[str, Tensor],
    vocab_W: Tensor | None,
    lm_head: LmHead,
    destination: Destination,
) -> dict[str, Tensor]:
    """Make all tensors of model.safetensors of an EAGLE-1 draft.

    Args:
        config: Config of the draft as it is exported.
        tensors: Tensors of the draft, by name.
        vocab_W: Tokens that the exported draft scores, ascending; None for all.
        lm_head: Head of the target.
        destination: Engine that loads the export.

    Raises:
        TargetIncompatibleError: The head has a bias, which the plugin does not support.
    """
    made, dtype = dict(tensors), widest(tensors)
    if destination is Destination.SGLANG and not config.fc_bias:
        made[BIAS] = torch.zeros(config.hidden_size, dtype=dtype)
    if vocab_W is not None and destination is not Destination.SGLANG:
        ids_W = vocab_W.cpu().long()
        made[D2T] = ids_W - torch.arange(len(ids_W))
        if destination is Destination.VLLM:
            if lm_head.bias_V is not None:
                raise TargetIncompatibleError(
                    "the target's lm_head has a bias, and a draft vocabulary's rows have no place for it in vLLM; "
                    "export the dense form, which scores by the target's own head",
                    param="form",
                )
            made[HEAD] = lm_head.take(ids_W).rows_VD.to("cpu", dtype).contiguous()
    return made


def shapes_of(eda: EdaConfig) -> dict[str, tuple[int, ...]]:
    """Compute the names and shapes that an export must have, from its `eda_config` alone."""
    with torch.device("meta"):
        draft = make_draft(eda.draft)
        if eda.private is not None:
            draft.add_private(eda.private)
    shapes = {name: tuple(parameter.shape) for name, parameter in draft.named_parameters()}
    if eda.draft.kind == "eagle3":
        if eda.draft_vocab_size is not None:
            shapes |= {D2T: (eda.draft_vocab_size,), T2D: (eda.draft.vocab_size,)}
    elif eda.destination is Destination.SGLANG:
        shapes[BIAS] = (eda.draft.hidden_size,)
    elif eda.draft_vocab_size is not None:
        shapes[D2T] = (eda.draft_vocab_size,)
        if eda.destination is Destination.VLLM:
            shapes[HEAD] = (eda.draft_vocab_size, eda.draft.hidden_size)
    return shapes if eda.places is None else shapes | pack_shapes(eda, eda.places)


def require_tensors(eda: EdaConfig, names: Iterable[str]) -> None:
    """Check the names of the tensors that an engine is about to load.

    Raises:
        ArtifactCorruptError: A tensor is missing or unknown.
    """
    wrong = sorted(set(names) ^ shapes_of(eda).keys())
    if wrong:
        raise ArtifactCorruptError(
            f"the draft {eda.source} has missing or unknown tensors: {', '.join(wrong)}; export again"
        )


def config_of(eda: EdaConfig, max_context: int, dtype: str) -> dict[str, Any]:
    """Make the whole config.json of an EAGLE-1 draft; the architecture is always Llama's, whatever the target."""
    draft = eda.draft
    scaling = None if draft.rope_scaling is None else draft.rope_scaling.model_dump(exclude_none=True)
    rotation = {"rope_theta": draft.rope_theta, **(scaling or {"rope_type": "default"})}
    # vLLM reads `qkv_bias` before `attention_bias`, which also covers the output; to SGLang `bias` is fc's.
    biases = {"attention_bias": draft.o_bias, **({"qkv_bias": True} if draft.qkv_bias else {})}
    if draft.o_bias and not draft.qkv_bias:
        biases["qkv_bias"] = False
    return {
        "architectures": [_ARCHITECTURES[eda.destination, eda.form]],
        "model_type": "llama",
        "hidden_size": draft.hidden_size,
        "intermediate_size": draft.expert_width,
        "num_hidden_layers": 1,
        "num_attention_heads": draft.num_heads,
        "num_key_value_heads": draft.num_kv_heads,
        "head_dim": draft.head_dim,
        "vocab_size": draft.vocab_size,
        "rope_parameters": rotation,
        "rms_norm_eps": draft.rms_norm_eps,
        "hidden_act": "silu",
        "max_position_embeddings": max_context,
        **biases,
        "mlp_bias": False,
        "bias": draft.fc_bias,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        **({} if eda.draft_vocab_size is None else {"draft_vocab_size": eda.draft_vocab_size}),
        "eda_config": eda.model_dump(mode="json"),
    }
