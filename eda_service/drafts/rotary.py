"""Rotary position embedding (RoFormer), the half-split form that Llama-family checkpoints use.

Shapes: B rows, N heads, L positions, d head width (even).
"""

from __future__ import annotations

import torch
from torch import Tensor


def angles(positions: Tensor, width: int, theta: float) -> Tensor:
    """position * theta^(-2i/d) for i below d/2, in float32: shape (*positions, d/2)."""
    exponent = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    return positions[..., None].float() * theta**-exponent


def rotate(x_BNLd: Tensor, positions_BL: Tensor, theta: float) -> Tensor:
    """Rotate each pair (i, i + d/2) by its angle."""
    angles_BLh = angles(positions_BL, x_BNLd.shape[-1], theta)
    cos = angles_BLh.cos()[:, None].to(x_BNLd.dtype)
    sin = angles_BLh.sin()[:, None].to(x_BNLd.dtype)
    first, second = x_BNLd.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
