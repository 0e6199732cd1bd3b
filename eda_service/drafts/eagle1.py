"""EAGLE-1: fc([embed(x_{t+1}); h_t]) -> one decoder layer -> features -> the target's lm_head (Eq. 7).

The layer has no input norm, and its FFN is either one expert (a base draft) or the shared-private module. Its state is
an estimate of the target's last state after the final norm, so no norm follows. Module names match the EAGLE
checkpoints that vLLM loads.

The lm_head belongs to the target, and so does the embedding, except for drafts that were imported with one. Modules of
the target are passed in as values and never stored here.

Shapes: B rows, L positions, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eda_service.drafts.attention import DraftAttention, normed
from eda_service.drafts.draft import Attend, Draft, Places
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.expert import Expert


class DraftLayer(nn.Module):
    """Attention and FFN with residuals; no norm before the attention."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.self_attn = DraftAttention(config, config.hidden_size)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp: nn.Module = Expert(config.hidden_size, config.expert_width)

    def forward(self, x_BLD: Tensor, positions_BL: Tensor, attend: Attend) -> Tensor:
        """Return the features of the next position (B, L, D)."""
        hidden = x_BLD + self.self_attn(x_BLD, positions_BL, attend)
        out: Tensor = hidden + self.mlp(normed(hidden, self.post_attention_layernorm))
        return out


class Eagle1Draft(Draft):
    """An EAGLE-1 draft; see `Draft`."""

    places = Places(ffn="layers.0.mlp", fuse=("fc",), attention=("layers.0.self_attn",))
    predicts_head_in = True

    def __init__(self, config: DraftConfig) -> None:
        super().__init__(config)
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=config.fc_bias)
        self.add_embedding()
        self.layers = nn.ModuleList([DraftLayer(config)])

    @property
    def layer(self) -> DraftLayer:
        """The draft's only decoder layer."""
        layer = self.layers[0]
        assert isinstance(layer, DraftLayer)
        return layer

    def start(self, draft_in_BLC: Tensor) -> Tensor:
        """Return the target's last state unchanged."""
        return draft_in_BLC

    def step(self, embeds_BLD: Tensor, state_BLD: Tensor, positions_BL: Tensor, attend: Attend) -> Tensor:
        """Compute the next state, Eq. 7."""
        x_BLD = self.fuse(embeds_BLD, state_BLD)
        out: Tensor = self.layer(x_BLD, positions_BL, attend)
        return out

    def fuse(self, embeds_BLD: Tensor, state_BLD: Tensor) -> Tensor:
        """Apply fc to the embedding of token t+1 and the state of position t."""
        x_BLD: Tensor = self.fc(torch.cat([embeds_BLD, state_BLD], dim=-1))
        return x_BLD
