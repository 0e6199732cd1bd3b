"""EAGLE-3 drafts as files that vLLM loads, written here by hand: each case says its shape twice, once in our words and
once in the keys of `config.json`, and what its tensors are called.

Nothing of `eda_service.drafts.dialects` or `eda_service.export` is used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from eda_service.drafts.eagle3 import Eagle3Draft

ODD_W = torch.arange(1, 111, 2)


@dataclass(frozen=True)
class Case:
    """A draft.

    Attributes:
        shape: What differs from `eagle3_config`'s defaults.
        keys: What differs from the plain `config.json`.
        draft_class: The class of vLLM that computes it.
        vocab_W: Tokens that it scores; None: all.
        family: Of the target.
        layer: Prefix of the layer's tensors.
        layer_config: Keys in `transformer_layer_config`, for the speculators library's files; None for others.
        copies_embedding: The file holds the target's embedding.
        zero_o_bias: The file holds a bias of zeros that the draft does not have.
    """

    shape: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    draft_class: str = "Eagle3LlamaForCausalLM"
    vocab_W: Tensor | None = None
    family: str = "llama"
    layer: str = "layers.0."
    layer_config: dict[str, Any] | None = None
    copies_embedding: bool = False
    zero_o_bias: bool = False


_LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
_YARN = {"factor": 32.0, "original_max_position_embeddings": 16}
_YARN_FULL = _YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5, "truncate": False}
_QWEN3 = {"model_type": "qwen3", "architectures": ["Eagle3Qwen3ForCausalLM"]}

CASES = {
    "official: half the vocabulary, the target's embedding": Case(
        shape={"draft_vocab_size": len(ODD_W)},
        keys={"architectures": ["LlamaForCausalLM"], "draft_vocab_size": len(ODD_W)},
        vocab_W=ODD_W,
        layer="midlayer.",
        copies_embedding=True,
    ),
    "norms before residual and fc, layers 1, 4 and the last, an embedding of its own": Case(
        shape={"norm_before_residual": True, "norm_before_fc": True, "layers": (1, 4, 8), "own_embedding": True},
        keys={"norm_before_residual": True, "norm_before_fc": True, "eagle_aux_hidden_state_layer_ids": [1, 4, 8]},
    ),
    "a norm a layer, the normed state fed back, two layers, llama3": Case(
        shape={
            "fc_norm": "each",
            "norm_output": True,
            "layers": (0, 7),
            "rope_scaling": _LLAMA3 | {"rope_type": "llama3"},
        },
        keys={
            "fc_norm": True,
            "norm_output": True,
            "num_aux_hidden_states": 2,
            "eagle_aux_hidden_state_layer_ids": [0, 7],
            "rope_scaling": _LLAMA3 | {"rope_type": "llama3"},
        },
    ),
    "speculators: what is not written is norm_before_residual; yarn; biases": Case(
        shape={
            "norm_before_residual": True,
            "qkv_bias": True,
            "o_bias": True,
            "draft_vocab_size": len(ODD_W),
            "rope_scaling": _YARN | {"rope_type": "yarn"},
        },
        layer_config={"attention_bias": True, "rope_scaling": _YARN | {"rope_type": "yarn"}},
        keys={"draft_vocab_size": len(ODD_W)},
        vocab_W=ODD_W,
        copies_embedding=True,
    ),
    "qwen3: q and k norms, wide heads, linear": Case(
        shape={
            "qk_norm": True,
            "head_dim": 64,
            "norm_before_fc": True,
            "rope_theta": 1000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
        keys=_QWEN3
        | {
            "head_dim": 64,
            "rope_theta": 1000.0,
            "eagle_config": {"norm_before_fc": True},
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
        draft_class="Eagle3Qwen3ForCausalLM",
        family="qwen3",
    ),
    "narrower than the target, the nested ids": Case(
        shape={
            "hidden_size": 32,
            "target_hidden_size": 64,
            "own_embedding": True,
            "layers": (3, 6),
            "num_kv_heads": 4,
            "draft_vocab_size": len(ODD_W),
        },
        keys={
            "architectures": ["LlamaForCausalLMEagle3"],
            "hidden_size": 32,
            "target_hidden_size": 64,
            "num_key_value_heads": 4,
            "draft_vocab_size": len(ODD_W),
            "eagle_config": {"eagle_aux_hidden_state_layer_ids": [3, 6], "use_aux_hidden_state": True},
        },
        vocab_W=ODD_W,
    ),
    "no layers: the last state": Case(
        shape={"layers": (), "norm_before_residual": True},
        keys={"norm_before_residual": True, "eagle_config": {"use_aux_hidden_state": False}},
    ),
    "the target's head, every norm": Case(
        shape={
            "own_head": False,
            "norm_before_fc": True,
            "fc_norm": "each",
            "norm_output": True,
            "norm_before_residual": True,
        },
        keys={"norm_before_fc": True, "fc_norm": True, "norm_output": True, "norm_before_residual": True},
    ),
    "qwen3 of the speculators library: four layers, biases, yarn with all its keys": Case(
        shape={
            "qk_norm": True,
            "qkv_bias": True,
            "layers": (1, 2, 5, 7),
            "draft_vocab_size": len(ODD_W),
            "rope_scaling": _YARN_FULL | {"rope_type": "yarn"},
        },
        layer_config={
            "model_type": "qwen3",
            "attention_bias": True,
            "rope_parameters": _YARN_FULL | {"rope_type": "yarn", "rope_theta": 10_000.0},
        },
        keys={
            "norm_before_residual": False,
            "draft_vocab_size": len(ODD_W),
            "eagle_aux_hidden_state_layer_ids": [1, 2, 5, 7],
        },
        draft_class="Eagle3Qwen3ForCausalLM",
        vocab_W=ODD_W,
        family="qwen3",
    ),
    "q, k and v biases, a bias of zeros behind them, two layers": Case(
        shape={"qkv_bias": True, "layers": (2, 6), "norm_output": True},
        layer_config={"attention_bias": True, "num_aux_hidden_states": 2, "head_dim": 32},
        keys={
            "norm_before_residual": False,
            "norm_output": True,
            "eagle_aux_hidden_state_layer_ids": [2, 6],
        },
        zero_o_bias=True,
    ),
}


def write_files(directory: Path, case: Case, draft: Eagle3Draft, target_embedding: Tensor, *, short: int = 64) -> Path:
    """The draft's directory; its `max_position_embeddings` is shorter than the target's on purpose."""
    directory.mkdir()
    config = draft.shape
    layer = {
        "model_type": "llama",
        "architectures": ["Eagle3LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 112,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "max_position_embeddings": short,
        "attention_bias": False,
        "tie_word_embeddings": False,
    }
    if case.layer_config is None:
        written = layer | case.keys
    else:
        written = {
            "speculators_model_type": "eagle3",
            "architectures": ["Eagle3Speculator"],
            "transformer_layer_config": layer | case.layer_config,
            "speculators_config": {
                "algorithm": "eagle3",
                "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 5}],
                "verifier": {"name_or_path": "the target", "architectures": []},
            },
            **case.keys,
        }
    tensors = {name: parameter.detach().clone() for name, parameter in draft.named_parameters()}
    tensors = {name.replace("layers.0.", case.layer): tensor for name, tensor in tensors.items()}
    if case.zero_o_bias:
        tensors["layers.0.self_attn.o_proj.bias"] = torch.zeros(config.hidden_size)
    if case.copies_embedding:
        tensors["embed_tokens.weight"] = target_embedding.clone()
    if case.vocab_W is not None:
        tensors["d2t"] = case.vocab_W - torch.arange(len(case.vocab_W))
        tensors["t2d"] = torch.zeros(config.vocab_size, dtype=torch.bool)
        tensors["t2d"][case.vocab_W] = True
    (directory / "config.json").write_text(json.dumps(written | {"torch_dtype": "float32"}))
    save_file(tensors, directory / "model.safetensors")
    return directory
