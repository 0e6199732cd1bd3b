"""The draft in its decoding form: the function of `model.draft` (Eqs. 3-7) with one product per group of weights.

Query, key and value are one product; so are the gate and up rows of both experts, and their down columns: the gate's
weights scale each expert's inner activations, which is the same sum. Weights are packed copies, the draft itself stays
as it is.

Shapes: B rows, L positions, D hidden, F width of all experts together, N query heads, H key/value heads, d head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.model.draft import Draft
from eda_service.model.expert import Expert
from eda_service.model.rotary import angles
from eda_service.model.shared_private import SharedPrivateFFN
from eda_service.target.attention import attend
from eda_service.target.fused import norm_of, rms_norm, rotate, rotation
from eda_service.target.packed import fuse_linears, make_linear
from eda_service.target.slots import SlotCache


class FusedFFN:
    """One expert, or the shared and the private one behind their gate."""

    def __init__(self, ffn: nn.Module) -> None:
        modules = [ffn.shared, ffn.private] if isinstance(ffn, SharedPrivateFFN) else [ffn]
        experts = [module for module in modules if isinstance(module, Expert)]
        assert len(experts) == len(modules)
        self.widths = [expert.width for expert in experts]
        self.gate_up = fuse_linears([expert.gate_proj for expert in experts] + [expert.up_proj for expert in experts])
        down_DF = torch.cat([expert.down_proj.weight.detach() for expert in experts], dim=1)
        self.gate_proj_2D: Tensor | None = None
        if isinstance(ffn, SharedPrivateFFN):
            down_DF = down_DF * ffn.scale
            self.gate_proj_2D = None if ffn.gate is None else ffn.gate.proj.weight.detach()
        self.down = make_linear(down_DF)

    def __call__(self, hidden_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        gate_BLF, up_BLF = self.gate_up(hidden_BLD).chunk(2, dim=-1)
        inner_BLF = F.silu(gate_BLF).mul_(up_BLF)
        if self.gate_proj_2D is not None:
            weights_BL2 = torch.softmax(F.linear(hidden_BLD, self.gate_proj_2D).float(), dim=-1).to(inner_BLF.dtype)
            for expert, part in enumerate(inner_BLF.split(self.widths, dim=-1)):
                part.mul_(weights_BL2[..., expert : expert + 1])
        out: Tensor = self.down(inner_BLF)
        return out


class FusedDraft:
    """A draft ready to decode.

    Args:
        draft: Any draft, LoRA merged; not changed.
        embed: The target's embedding.
        max_tokens: Positions the rotation table covers.
    """

    def __init__(self, draft: Draft, embed: nn.Module, *, max_tokens: int) -> None:
        config, layer = draft.config, draft.layer
        self.config, self.embed = config, embed
        attention, norm = layer.self_attn, layer.post_attention_layernorm
        self.fc = make_linear(draft.fc.weight.detach())
        self.qkv = fuse_linears([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = make_linear(attention.o_proj.weight.detach())
        self.norm = norm_of(norm, config.rms_norm_eps)
        self.ffn = FusedFFN(layer.mlp)
        self.dtype, self.device = norm.weight.dtype, norm.weight.device
        self.cos_T1d, self.sin_T1d = self._table(max_tokens)

    def _table(self, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of every position."""
        positions_T = torch.arange(max_tokens, device=self.device)
        angles_Th = angles(positions_T, self.config.head_dim, self.config.rope_theta)
        angles_1Td = torch.cat([angles_Th, angles_Th], dim=-1)[None]
        cos, sin = rotation(angles_1Td.cos().to(self.dtype), angles_1Td.sin().to(self.dtype))
        return cos[0], sin[0]

    def new_cache(self, num_slots: int, max_tokens: int) -> SlotCache:
        """An empty cache of the draft's one layer."""
        return SlotCache(
            num_layers=1,
            num_slots=num_slots,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            max_tokens=max_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def __call__(
        self, tokens_BL: Tensor, features_BLD: Tensor, positions_BL: Tensor, cache: SlotCache, mask: Tensor | None
    ) -> Tensor:
        """Features of the next positions (B, L, D) from x_{t+1} and h_t; keys and values go where the cache was
        told.
        """
        rows, length = tokens_BL.shape
        heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        x_BLD = self.fc(torch.cat([self.embed(tokens_BL), features_BLD], dim=-1))
        qkv = self.qkv(x_BLD).view(rows, length, heads + 2 * kv_heads, -1)
        rotated = rotate(qkv[:, :, : heads + kv_heads], self.cos_T1d[positions_BL], self.sin_T1d[positions_BL])
        keys, values = cache.write(rotated[:, :, heads:], qkv[:, :, heads + kv_heads :], 0)
        attended = attend(rotated[:, :, :heads].transpose(1, 2), keys, values, mask).transpose(1, 2)
        hidden_BLD = x_BLD + self.out(attended.reshape(rows, length, -1))
        out_BLD: Tensor = hidden_BLD + self.ffn(rms_norm(hidden_BLD, self.norm))
        return out_BLD
