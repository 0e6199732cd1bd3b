"""Tiny random models of many families, as transformers writes them: what each needs beside the common sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import VOCAB_SIZE, build_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

SERVED: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bitnet": {},
    "cohere": {"logit_scale": 0.125},
    "cohere2": {"logit_scale": 0.125, "sliding_window": 512},
    "ernie4_5": {},
    "exaone4": {"sliding_window": 512},
    "gemma": {"head_dim": 16},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": 512,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 5.0,
    },
    "gemma3_text": {"head_dim": 16, "sliding_window": 512},
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "gpt_oss": {
        "head_dim": 16,
        "num_local_experts": 4,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "granite": {
        "logits_scaling": 6.0,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
    },
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "llama": {},
    "ministral": {"head_dim": 8},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 4},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 512},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "phi3": {},
    "phimoe": {"lm_head_bias": True, "attention_bias": True, "num_local_experts": 4},
    "qwen2": {},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, **_EXPERTS},
    "seed_oss": {"head_dim": 8},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": {"head_dim": 8, "sliding_window": 512},
}
"""Families whose greedy answers are transformers' own, token by token."""

REFUSED: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 24,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
        "first_k_dense_replace": 1,
    },
    "falcon": {},
    "gpt_neox": {},
    "jamba": {},
    "lfm2": {},
    "mamba": {},
    "minimax": {},
    "opt": {},
    "phi": {},
    "qwen3_next": {
        "head_dim": 16,
        "num_experts": 4,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}
"""Families that this engine cannot drive."""


def family_config(family: str, **changes: Any) -> Any:
    """The config of a tiny model of a family."""
    return AutoConfig.for_model(family, **{**_COMMON, **{**SERVED, **REFUSED}[family], **changes})


def write_family(directory: Path, family: str, **changes: Any) -> Path:
    """A random model of a family with weights wide enough that answers vary, its heads' biases included."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family_config(family, **changes), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.35) if parameter.ndim >= 2 else parameter.uniform_(0.7, 1.3)
    model.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory
