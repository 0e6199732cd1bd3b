"""The attention of a draft's one layer; the caller decides which positions it attends to.

Shapes: B rows, L positions, D hidden, E width of its input, N query heads, H key/value heads, d head width.
"""

from __future__ import annotations

from torch import Tensor, nn

from eda_service.drafts.draft import Attend
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.rotary import rotate


class DraftAttention(nn.Module):
    """The attention's projections.

    Args:
        config: Config of the draft.
        width_in: Width of the input, E.
        qk_norm: Whether each query and key head is normed, as in Qwen3.
    """

    def __init__(self, config: DraftConfig, width_in: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.config = config
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(width_in, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width_in, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width_in, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=config.o_bias)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps) if qk_norm else None
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps) if qk_norm else None

    def forward(self, x_BLE: Tensor, positions_BL: Tensor, attend: Attend) -> Tensor:
        """Map inputs (B, L, E) to outputs (B, L, D)."""
        attended_BNLd = attend(*self.project(x_BLE, positions_BL))
        out: Tensor = self.o_proj(attended_BNLd.transpose(1, 2).flatten(2))
        return out

    def project(self, x_BLE: Tensor, positions_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rotated query (B, N, L, d), the rotated key and the plain value (both B, H, L, d)."""
        rows, length, _ = x_BLE.shape
        shape = (rows, length, -1, self.config.head_dim)
        query, key = self.q_proj(x_BLE).view(shape), self.k_proj(x_BLE).view(shape)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = normed(query, self.q_norm), normed(key, self.k_norm)
        value = self.v_proj(x_BLE).view(shape).transpose(1, 2)
        theta, scaling = self.config.rope_theta, self.config.rope_scaling
        query = rotate(query.transpose(1, 2), positions_BL, theta, scaling)
        return query, rotate(key.transpose(1, 2), positions_BL, theta, scaling), value


def normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """Apply a norm in the dtype of its weight; autocast passes bfloat16."""
    out: Tensor = norm(x.to(norm.weight.dtype))
    return out
