"""Rotary position embedding (RoFormer), the half-split form that Llama-family checkpoints use.

Shapes: B rows, N heads, L positions, d head width (even).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x_BNLd: Tensor, positions_BL: Tensor, theta: float) -> Tensor:
    """Rotate each pair (i, i + d/2) by position * theta^(-2i/d); angles in float32."""
    width = x_BNLd.shape[-1]
    exponent = torch.arange(0, width, 2, device=x_BNLd.device, dtype=torch.float32) / width
    angles_BLh = positions_BL[..., None].float() * theta**-exponent
    cos = angles_BLh.cos()[:, None].to(x_BNLd.dtype)
    sin = angles_BLh.sin()[:, None].to(x_BNLd.dtype)
    first, second = x_BNLd.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
