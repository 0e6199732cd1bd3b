"""Rotary position embedding (RoFormer), the half-split form that Llama-family checkpoints use, plain or scaled.

Scaled frequencies (linear, Llama 3, YaRN) are computed by transformers.

Shapes: B rows, N heads, L positions, d head width (even).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from eda_service.drafts.draft_config import RopeScaling


@lru_cache(maxsize=64)
def _scaled(width: int, theta: float, scaling: RopeScaling) -> tuple[Tensor, float]:
    """Return inverse frequencies (d/2,) in float32 on the CPU, and the factor of cosines and sines."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    original = scaling.original_max_position_embeddings or 1
    config = LlamaConfig(
        hidden_size=width,
        num_attention_heads=1,
        head_dim=width,
        max_position_embeddings=round(original * scaling.factor),  # it warns where they do not fit together
        rope_parameters={"rope_theta": theta, **scaling.model_dump(exclude_none=True)},
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling.rope_type](config, torch.device("cpu"))
    return frequencies.float(), float(factor)


def angles(positions: Tensor, width: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Compute position * frequency, plain theta^(-2i/d) for i below d/2, in float32: shape (*positions, d/2)."""
    if scaling is not None:
        return positions[..., None].float() * _scaled(width, theta, scaling)[0].to(positions.device)
    exponent = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    return positions[..., None].float() * theta**-exponent


def attention_factor(width: int, theta: float, scaling: RopeScaling | None) -> float:
    """Return the factor of cosines and sines; 1 except for YaRN."""
    return 1.0 if scaling is None else _scaled(width, theta, scaling)[1]


def rotate(x_BNLd: Tensor, positions_BL: Tensor, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Rotate each pair (i, i + d/2) by its angle."""
    width = x_BNLd.shape[-1]
    angles_BLh = angles(positions_BL, width, theta, scaling)
    cos, sin = angles_BLh.cos(), angles_BLh.sin()
    factor = attention_factor(width, theta, scaling)
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    cos, sin = cos[:, None].to(x_BNLd.dtype), sin[:, None].to(x_BNLd.dtype)
    first, second = x_BNLd.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
