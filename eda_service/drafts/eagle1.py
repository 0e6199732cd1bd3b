"""EAGLE-1: fc([embed(x_{t+1}); h_t]) -> one decoder layer -> features -> the target's lm_head (Eq. 7).

The layer has no input norm, q/k/v have no bias, and its FFN is either one expert (a base draft) or the shared-private
module. Its state is an estimate of the target's last state after the final norm, so no norm follows. Module names match
the EAGLE checkpoints that vLLM loads.

Embedding and lm_head belong to the target; they are passed in as values and never stored here.

Shapes: B rows, L positions, D hidden, N query heads, H key/value heads, d head width, T visible keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eda_service.drafts.draft import Attend, Draft, Places
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.expert import Expert
from eda_service.drafts.rotary import rotate


class DraftAttention(nn.Module):
    """Projections of the draft's attention; the caller decides what is attended to."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def project(self, x_BLD: Tensor, positions_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated query (B, N, L, d), rotated key and plain value (B, H, L, d)."""
        rows, length, _ = x_BLD.shape
        shape = (rows, length, -1, self.config.head_dim)
        query = self.q_proj(x_BLD).view(shape).transpose(1, 2)
        key = self.k_proj(x_BLD).view(shape).transpose(1, 2)
        value = self.v_proj(x_BLD).view(shape).transpose(1, 2)
        theta = self.config.rope_theta
        return rotate(query, positions_BL, theta), rotate(key, positions_BL, theta), value


class DraftLayer(nn.Module):
    """Attention and FFN with residuals; no norm before the attention."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.self_attn = DraftAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp: nn.Module = Expert(config.hidden_size, config.expert_width)

    def finish(self, x_BLD: Tensor, attended_BNLd: Tensor) -> Tensor:
        """Output projection, residuals and FFN: features of the next position (B, L, D)."""
        merged_BLW = attended_BNLd.transpose(1, 2).flatten(2)
        hidden = x_BLD + self.self_attn.o_proj(merged_BLW)
        norm = self.post_attention_layernorm
        out: Tensor = hidden + self.mlp(norm(hidden.to(norm.weight.dtype)))  # autocast hands over bfloat16
        return out


class Eagle1Draft(Draft):
    """See `Draft`."""

    places = Places(ffn="layers.0.mlp", fuse="fc", attention="layers.0.self_attn")
    predicts_head_in = True

    def __init__(self, config: DraftConfig) -> None:
        super().__init__(config)
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layers = nn.ModuleList([DraftLayer(config)])

    @property
    def layer(self) -> DraftLayer:
        """The one decoder layer."""
        layer = self.layers[0]
        assert isinstance(layer, DraftLayer)
        return layer

    def start(self, draft_in_BLC: Tensor) -> Tensor:
        """The target's last state itself."""
        return draft_in_BLC

    def step(self, embeds_BLD: Tensor, state_BLD: Tensor, positions_BL: Tensor, attend: Attend) -> Tensor:
        """Eq. 7."""
        x_BLD = self.fuse(embeds_BLD, state_BLD)
        return self.layer.finish(x_BLD, attend(*self.layer.self_attn.project(x_BLD, positions_BL)))

    def fuse(self, embeds_BLD: Tensor, state_BLD: Tensor) -> Tensor:
        """fc over the embedding of token t+1 and the state of position t."""
        x_BLD: Tensor = self.fc(torch.cat([embeds_BLD, state_BLD], dim=-1))
        return x_BLD
