"""A draft of a tiny target in the form that EAGLE's authors publish theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from eda_service.drafts.draft import Draft

VOCAB_W = torch.arange(3, 93)
"""Token ids that such a draft scores."""


def write_published(directory: Path, draft: Draft, vocab_W: Tensor = VOCAB_W, **changes: Any) -> Path:
    """Files as EAGLE's authors write them: `midlayer.`, differences in `d2t`, a Llama config, float16.

    Args:
        directory: Where to.
        draft: Of `random_eagle3`.
        vocab_W: Token ids that it scores.
        changes: Of the config; None leaves a key out.
    """
    directory.mkdir(exist_ok=True)
    tensors = {name.replace("layers.0.", "midlayer."): p.detach().half() for name, p in draft.named_parameters()}
    tensors["d2t"] = vocab_W - torch.arange(len(vocab_W))
    tensors["t2d"] = torch.isin(torch.arange(112), vocab_W)
    save_file(tensors, directory / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 24, "intermediate_size": 48,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 1,
        "vocab_size": 112, "draft_vocab_size": 90, "target_hidden_size": 32, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "max_position_embeddings": 512, "rope_theta": 500.0, "norm_before_residual": True,
        "eagle_aux_hidden_state_layer_ids": [1, 2],
    }  # fmt: skip
    written = {key: value for key, value in (config | changes).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(written))
    return directory
