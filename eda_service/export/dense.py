"""A draft as one dense EAGLE checkpoint, the form vLLM's EAGLE class loads: the gate becomes a constant.

With gate weights held at their mean (g_s, g_p), the shared-private FFN is exactly one SwiGLU of width m_s + m_p: gate
and up rows stacked, down columns scaled and stacked. A learned gate that moves with its input is approximated; the
target verifies every token, so only acceptance changes, never the output.

Shapes: B rows, L positions, D hidden, F width of all experts together.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from eda_service.model.draft import Draft
from eda_service.model.expert import Expert
from eda_service.model.shared_private import SharedPrivateFFN


def mean_gate_weights(draft: Draft, hidden_ND: Tensor) -> tuple[float, float]:
    """Mean gate weights (g_s, g_p) over inputs of the FFN; (1, 1) where there is no gate, (1, 0) without a private
    expert.
    """
    ffn = draft.layer.mlp
    if not isinstance(ffn, SharedPrivateFFN):
        return 1.0, 0.0
    if ffn.gate is None:
        return 1.0, 1.0
    shared, private = ffn.gate(hidden_ND.to(ffn.gate.proj.weight.dtype)).float().mean(0).tolist()
    return shared, private


def dense_tensors(draft: Draft, gate_weights: tuple[float, float]) -> dict[str, Tensor]:
    """EAGLE-1 tensors of a draft whose gate is held at `gate_weights`, in bfloat16."""
    attention, ffn = draft.layer.self_attn, draft.layer.mlp
    if isinstance(ffn, SharedPrivateFFN):
        scales = [ffn.scale * weight for weight in gate_weights]
        experts = [expert for expert in (ffn.shared, ffn.private) if isinstance(expert, Expert)]
    else:
        scales, experts = [1.0], [expert for expert in (ffn,) if isinstance(expert, Expert)]
    layer = "layers.0."
    tensors = {
        "fc.weight": draft.fc.weight,
        layer + "post_attention_layernorm.weight": draft.layer.post_attention_layernorm.weight,
        layer + "mlp.gate_proj.weight": torch.cat([expert.gate_proj.weight for expert in experts]),
        layer + "mlp.up_proj.weight": torch.cat([expert.up_proj.weight for expert in experts]),
        layer + "mlp.down_proj.weight": torch.cat(
            [scale * expert.down_proj.weight for scale, expert in zip(scales, experts, strict=True)], dim=1
        ),
    }
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        tensors[f"{layer}self_attn.{name}.weight"] = getattr(attention, name).weight
    return {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}


def export_dense(directory: Path, draft: Draft, gate_weights: tuple[float, float], *, max_context: int) -> None:
    """Write `config.json` and `model.safetensors` of a vLLM EAGLE draft into an existing directory.

    Args:
        directory: Where to.
        draft: LoRA merged.
        gate_weights: From `mean_gate_weights`.
        max_context: Positions of the target.
    """
    config = draft.config
    tensors = dense_tensors(draft, gate_weights)
    made = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": tensors["layers.0.mlp.gate_proj.weight"].shape[0],
        "num_hidden_layers": 1,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "rms_norm_eps": config.rms_norm_eps,
        "hidden_act": "silu",
        "max_position_embeddings": max_context,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, directory / "model.safetensors")
