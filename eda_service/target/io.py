"""The two matrices of a target that training needs: token embedding and lm_head, exported once, so that train workers
never load the target itself.

Shapes: V vocabulary, D hidden.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eda_service.target.loader import Target


def export_io(target: Target, path: Path) -> None:
    """Write embed (V, D) and, where it is not tied to it, head (V, D), in bfloat16."""
    weight = target.embed.weight
    assert isinstance(weight, Tensor)
    embed_VD = weight.detach()
    tensors = {"embed": embed_VD.to(torch.bfloat16).contiguous()}
    if target.head_weight.data_ptr() != embed_VD.data_ptr():
        tensors["head"] = target.head_weight.to(torch.bfloat16).contiguous()
    save_file(tensors, path)


def load_io(path: Path, *, dtype: torch.dtype, device: torch.device) -> tuple[nn.Embedding, Tensor]:
    """(frozen embedding, head_VD) of an exported target."""
    tensors = load_file(path, device=str(device))
    embed = nn.Embedding.from_pretrained(tensors["embed"].to(dtype), freeze=True)
    head_VD = tensors["head"].to(dtype) if "head" in tensors else embed.weight.detach()
    return embed, head_VD
