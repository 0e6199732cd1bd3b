"""The tensors and the config.json of an export, by who will load it.

This is EAGLE-1's dialect, the one place outside `drafts` that knows the names of its tensors; a kind has a dialect of
its own or is not exported. Names are those of the EAGLE-1 checkpoints that vLLM and SGLang load (`fc`, `layers.0...`);
a kept gate adds `mlp.shared`, `mlp.private` and `mlp.gate`. Embedding and lm_head are the target's, except that

* vLLM's plugin with a draft vocabulary gets the head's rows and `d2t` (target id less draft id), as EAGLE-3 has them,
* SGLang's `fc` has a bias (zeros), and its draft vocabulary is a token map file,
* the hub's own layout carries `d2t` alone.

Shapes: D hidden, V vocabulary, W draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig, Eagle1Config
from eda_service.drafts.kinds import make_draft
from eda_service.errors import ArtifactCorruptError, TargetIncompatibleError
from eda_service.export.eda_config import Destination, EdaConfig, ExportForm
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


def require_dialect(config: DraftConfig) -> None:
    """Refuse a kind of draft that no engine would read in this dialect.

    Raises:
        TargetIncompatibleError: It is not EAGLE-1.
    """
    if not isinstance(config, Eagle1Config):
        raise TargetIncompatibleError(
            f"a draft of kind {config.kind} has no form that vLLM or SGLang reads yet; export drafts of kind eagle1",
            param="name",
        )


def keeps_vocabulary(destination: Destination, form: ExportForm) -> bool:
    """Whether a draft vocabulary survives: vLLM's own EAGLE class scores the target's whole vocabulary."""
    return (destination, form) != (Destination.VLLM, ExportForm.DENSE)


def tensors_of(
    draft: Draft, vocab_W: Tensor | None, lm_head: LmHead, destination: Destination, form: ExportForm
) -> dict[str, Tensor]:
    """Everything in model.safetensors, weights in bfloat16.

    Args:
        draft: As exported.
        vocab_W: Tokens the exported draft scores, ascending; None for all.
        lm_head: The target's.
        destination: Who loads it.
        form: Dense or plugin.

    Raises:
        TargetIncompatibleError: The head has a bias, for which the plugin has no place.
    """
    tensors = {name: parameter.detach() for name, parameter in draft.named_parameters()}
    if destination is Destination.SGLANG:
        tensors[BIAS] = torch.zeros(draft.config.hidden_size)
    made = {name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()}
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
            made[HEAD] = lm_head.take(ids_W).rows_VD.to("cpu", torch.bfloat16).contiguous()
    return made


def shapes_of(eda: EdaConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes that an export must have, from its `eda_config` alone."""
    with torch.device("meta"):
        draft = make_draft(eda.draft)
        if eda.private is not None:
            draft.add_private(eda.private)
    shapes = {name: tuple(parameter.shape) for name, parameter in draft.named_parameters()}
    if eda.destination is Destination.SGLANG:
        shapes[BIAS] = (eda.draft.hidden_size,)
    elif eda.draft_vocab_size is not None:
        shapes[D2T] = (eda.draft_vocab_size,)
        if eda.destination is Destination.VLLM:
            shapes[HEAD] = (eda.draft_vocab_size, eda.draft.hidden_size)
    return shapes


def require_tensors(eda: EdaConfig, names: Iterable[str]) -> None:
    """Check what an engine is about to load.

    Raises:
        ArtifactCorruptError: A tensor is missing or unknown.
    """
    wrong = sorted(set(names) ^ shapes_of(eda).keys())
    if wrong:
        raise ArtifactCorruptError(
            f"the draft {eda.source} has missing or unknown tensors: {', '.join(wrong)}; export again"
        )


def config_of(eda: EdaConfig, max_context: int) -> dict[str, Any]:
    """The whole config.json; the architecture is Llama's whatever the target, as EAGLE-1 drafts are."""
    draft = eda.draft
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
        "rope_parameters": {"rope_theta": draft.rope_theta, "rope_type": "default"},
        "rms_norm_eps": draft.rms_norm_eps,
        "hidden_act": "silu",
        "max_position_embeddings": max_context,
        "attention_bias": False,
        "mlp_bias": False,
        "bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **({} if eda.draft_vocab_size is None else {"draft_vocab_size": eda.draft_vocab_size}),
        "eda_config": eda.model_dump(mode="json"),
    }
