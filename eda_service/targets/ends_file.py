"""Token embedding and lm_head of a target, exported once for training, so that train workers never load the target
itself.

Shapes: V vocabulary, D hidden.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eda_service.targets.ends import TargetEnds
from eda_service.targets.head import LmHead


def export_io(target: TargetEnds, path: Path) -> None:
    """Write embed (V, D) and, if it is not tied to it, head (V, D), in bfloat16, with the head's bias if it has one,
    and its scale and cap as metadata.
    """
    weight = target.embed.weight
    assert isinstance(weight, Tensor)
    embed_VD = weight.detach()
    tensors = {"embed": embed_VD.to(torch.bfloat16).contiguous()}
    if target.head_weight.data_ptr() != embed_VD.data_ptr():
        tensors["head"] = target.head_weight.to(torch.bfloat16).contiguous()
    head = target.lm_head
    if head.bias_V is not None:
        tensors["head_bias"] = head.bias_V.to(torch.bfloat16).contiguous()
    metadata = {"scale": repr(head.scale), **({} if head.cap is None else {"cap": repr(head.cap)})}
    save_file(tensors, path, metadata=metadata)


def load_io(path: Path, *, dtype: torch.dtype, device: torch.device) -> tuple[nn.Embedding, LmHead]:
    """Load (frozen embedding, head) of an exported target."""
    tensors = load_file(path, device=str(device))
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata() or {}
    embed = nn.Embedding.from_pretrained(tensors["embed"].to(dtype), freeze=True)
    head_VD = tensors["head"].to(dtype) if "head" in tensors else embed.weight.detach()
    bias = tensors.get("head_bias")
    return embed, LmHead(
        head_VD,
        bias_V=None if bias is None else bias.to(dtype),
        scale=float(metadata.get("scale", 1.0)),
        cap=float(metadata["cap"]) if "cap" in metadata else None,
    )
