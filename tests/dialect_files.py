"""Drafts as others publish them, written by hand from one set of tensors: names and keys stand here as they do in those
files, and nothing is taken from what reads them.

The target has 8 layers, 64 tokens and states of width 32; the draft is 32 wide, with 4 heads of 8, 2 of keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from eda_service.drafts.dialects.record import BaseTarget

Tensors = dict[str, torch.Tensor]
TARGET = BaseTarget(num_layers=8, vocab_size=64, hidden_size=32, rope_theta=9e5, max_position_embeddings=4096)
D, M, V, W, HEADS, KV_HEADS, HEAD_DIM = 32, 48, 64, 24, 4, 2, 8
USUAL = (2, 4, 5)
IDS = sorted(torch.randperm(V, generator=torch.Generator().manual_seed(7))[:W].tolist())
ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def tensors_of(  # each is a part that a draft has or has not
    kind: str = "eagle3",
    *,
    states: int = 3,
    target_width: int = D,
    embedding: bool = False,
    head: bool = True,
    rows: int = W,
    biases: tuple[str, ...] = (),
    norms: tuple[str, ...] = (),
    hidden_norm: bool = True,
    qk_norm: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensors:
    """Tensors by their canonical names."""
    shapes: dict[str, tuple[int, ...]] = {
        "layers.0.self_attn.q_proj.weight": (32, 64 if kind == "eagle3" else 32),
        "layers.0.self_attn.k_proj.weight": (16, 64 if kind == "eagle3" else 32),
        "layers.0.self_attn.v_proj.weight": (16, 64 if kind == "eagle3" else 32),
        "layers.0.self_attn.o_proj.weight": (32, 32),
        "layers.0.post_attention_layernorm.weight": (32,),
        "layers.0.mlp.gate_proj.weight": (48, 32),
        "layers.0.mlp.up_proj.weight": (48, 32),
        "layers.0.mlp.down_proj.weight": (32, 48),
    }
    if kind == "eagle1":
        shapes["fc.weight"] = (32, 64)
    else:
        shapes |= {"layers.0.input_layernorm.weight": (32,), "norm.weight": (32,)}
        if hidden_norm:
            shapes["layers.0.hidden_norm.weight"] = (32,)
        if states:
            shapes["fc.weight"] = (32, states * target_width)
        if head:
            shapes["lm_head.weight"] = (rows, 32)
        if qk_norm:
            shapes |= {"layers.0.self_attn.q_norm.weight": (8,), "layers.0.self_attn.k_norm.weight": (8,)}
    if embedding:
        shapes["embed_tokens.weight"] = (64, 32)
    widths = {"input_norm": states * target_width, "fc_norm": states * target_width}
    shapes |= {f"{norm}.weight": (widths.get(norm, target_width),) for norm in norms}
    outputs = {"fc": 32, "layers.0.self_attn.q_proj": 32, "layers.0.self_attn.k_proj": 16}
    outputs |= {"layers.0.self_attn.v_proj": 16, "layers.0.self_attn.o_proj": 32}
    shapes |= {f"{bias}.bias": (outputs[bias],) for bias in biases}
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in sorted(shapes.items())}


def d2t() -> torch.Tensor:
    """Token id less row."""
    return torch.tensor([token - row for row, token in enumerate(IDS)], dtype=torch.int64)


def t2d() -> torch.Tensor:
    """Which tokens have a row."""
    marks = torch.zeros(V, dtype=torch.bool)
    marks[IDS] = True
    return marks


def _midlayer(tensors: Tensors) -> Tensors:
    return {name.replace("layers.0.", "midlayer."): tensor for name, tensor in tensors.items()}


LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "vocab_size": 64,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
"""What a config of transformers has in every dialect."""


def official_eagle1(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """SafeAILab's for EAGLE-1."""
    config = {**LLAMA, "architectures": ["LlamaForCausalLM"], "bias": "fc.bias" in tensors, "rope_theta": 5e5}
    return config, dict(tensors)


def official(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """SafeAILab's for EAGLE-3."""
    config = {**LLAMA, "architectures": ["LlamaForCausalLM"], "draft_vocab_size": 24, "rope_theta": 5e5}
    return config, {**_midlayer(tensors), "d2t": d2t(), "t2d": t2d()}


def specforge(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """SpecForge's, and TorchSpec's."""
    config = {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 24, "rope_theta": 5e5}
    config |= {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}, "tie_word_embeddings": False}
    return config, {**_midlayer(tensors), "d2t": d2t(), "t2d": t2d()}


def speculators(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """RedHat's."""
    config = {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.3.0",
        "speculators_config": {"algorithm": "eagle3", "verifier": {"name_or_path": "tiny"}},
        "draft_vocab_size": 24,
        "target_hidden_size": None,
        "norm_before_residual": True,
        "eagle_aux_hidden_state_layer_ids": [2, 4, 5],
        "transformer_layer_config": {**LLAMA, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    }
    return config, {**tensors, "d2t": d2t(), "t2d": t2d()}


def modelopt(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """NVIDIA's."""
    config = {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 24, "rope_theta": 5e5}
    config["eagle_config"] = {
        "eagle_aux_hidden_state_layer_ids": [1, 3, 4],
        "use_aux_hidden_state": True,
        "use_input_layernorm_in_first_layer": True,
        "use_last_layernorm": True,
        "use_mtp_layernorm": False,
        "next_layer_regular": True,
        "parallel_draft_step": 1,
        "parallel_draft_heads_num_layers": None,
    }
    return config, {**tensors, "d2t": d2t()}


def angelslim(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Tencent's."""
    config = {**LLAMA, "architectures": ["Eagle3LlamaForCausalLM"], "draft_vocab_size": 24, "rope_theta": 5e5}
    config |= {"target_model_type": "qwen3", "tie_word_embeddings": True}
    return config, {**_midlayer(tensors), "d2t": d2t(), "t2d": t2d()}


def nemo(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """NeMo AutoModel's."""
    config = {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 24, "rope_theta": 5e5}
    config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}
    renamed = {name if name == "lm_head.weight" else f"model.{name}": tensor for name, tensor in tensors.items()}
    return config, {**renamed, "d2t": d2t(), "t2d": t2d()}


def deepspec(tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """DeepSeek's: five states, the whole vocabulary, norms of heads, one norm over all states."""
    config = {**LLAMA, "model_type": "qwen3", "architectures": ["Qwen3Eagle3Model"], "rope_theta": 5e5, "head_dim": 8}
    config |= {"target_layer_ids": [0, 2, 3, 5, 6], "num_aux_hidden_states": 5, "draft_vocab_size": 64}
    config |= {"fc_norm": "fc_norm.weight" in tensors}
    return config, dict(tensors)


Write = Callable[[Tensors], tuple[dict[str, Any], Tensors]]
DIALECTS: dict[str, Write] = {
    "eagle3": official,
    "specforge": specforge,
    "speculators": speculators,
    "modelopt": modelopt,
    "angelslim": angelslim,
    "nemo": nemo,
}
"""Of EAGLE-3 with three states and a vocabulary of its own."""


def put(
    directory: Path,
    write: Write,
    tensors: Tensors,
    *,
    config: Mapping[str, Any] | None = None,
    change: Callable[[Tensors], Tensors] | None = None,
    files: str = "one",
) -> Path:
    """Write a draft.

    Args:
        directory: New.
        write: A dialect.
        tensors: By canonical name.
        config: Keys to set, dotted for a group; `...` takes one out.
        change: Of the tensors as they are about to be written.
        files: `one` or `shards` of safetensors, or `bin` or `bins` of pickles.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made, named = write(tensors)
    made = json.loads(json.dumps(made))
    for key, value in (config or {}).items():
        *groups, last = key.split(".")
        place = made
        for group in groups:
            place = place.setdefault(group, {})
        if value is ...:
            place.pop(last, None)
        else:
            place[last] = value
    (directory / "config.json").write_text(json.dumps(made, indent=2))
    named = {name: tensor.clone() for name, tensor in named.items()}
    save_tensors(directory, change(named) if change else named, files)
    return directory


def save_tensors(directory: Path, tensors: Tensors, files: str = "one") -> None:
    """Write weights in one of the four ways."""
    if files == "one":
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    elif files == "bin":
        torch.save(tensors, directory / "pytorch_model.bin")
    else:
        stem, ending = ("model", "safetensors") if files == "shards" else ("pytorch_model", "bin")
        names, places = sorted(tensors), {}
        for index, part in enumerate((names[::2], names[1::2]), start=1):
            file = f"{stem}-{index:05}-of-00002.{ending}"
            picked = {name: tensors[name] for name in part}
            if files == "shards":
                save_file(picked, directory / file, metadata={"format": "pt"})
            else:
                torch.save(picked, directory / file)
            places |= dict.fromkeys(part, file)
        index_name = f"{stem}.{ending}.index.json"
        (directory / index_name).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def bytes_of(tensor: torch.Tensor) -> bytes:
    """A tensor's data."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
