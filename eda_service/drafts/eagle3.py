"""EAGLE-3 (arXiv 2503.01840): fc over several of the target's layers -> one layer over [embedding; state] -> norm -> a
head over a vocabulary of its own.

    g_t    = fc([a_1; ..; a_n])                                     the state that the first step reads
    n      = hidden_norm(s),  r = s  (n with norm_before_residual)
    u      = r + attention([input_layernorm(emb(x_{t+1})); n])
    y      = u + FFN(post_attention_layernorm(u))
    logits = lm_head norm(y)

The next step reads y (norm(y) with norm_output): the draft reads its own states, which do not estimate a state of the
target. Module names are those of the checkpoints that vLLM loads; fields of `Eagle3Config` cover the differences
between checkpoints.

Shapes: B rows, L positions, C width of the target's states side by side, D hidden, W draft vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eda_service.drafts.attention import DraftAttention, normed
from eda_service.drafts.draft import Attend, Draft, Places
from eda_service.drafts.draft_config import DraftConfig, Eagle3Config
from eda_service.drafts.expert import Expert
from eda_service.drafts.head import DraftHead
from eda_service.targets.decoder.fused import norm_of
from eda_service.targets.head import LmHead


class Eagle3Layer(nn.Module):
    """The decoder layer over embedding and state."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        width, epsilon = config.hidden_size, config.rms_norm_eps
        self.norm_before_residual = config.norm_before_residual
        self.input_layernorm = nn.RMSNorm(width, eps=epsilon)
        self.hidden_norm = nn.RMSNorm(width, eps=epsilon) if config.has_hidden_norm else None
        self.self_attn = DraftAttention(config, 2 * width, qk_norm=config.qk_norm)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=epsilon)
        self.mlp: nn.Module = Expert(width, config.expert_width)

    def forward(self, embeds_BLD: Tensor, state_BLD: Tensor, positions_BL: Tensor, attend: Attend) -> Tensor:
        """Return y (B, L, D)."""
        normed_BLD = state_BLD if self.hidden_norm is None else normed(state_BLD, self.hidden_norm)
        residual_BLD = normed_BLD if self.norm_before_residual else state_BLD
        x_BLE = torch.cat([normed(embeds_BLD, self.input_layernorm), normed_BLD], dim=-1)
        hidden_BLD = residual_BLD + self.self_attn(x_BLE, positions_BL, attend)
        out: Tensor = hidden_BLD + self.mlp(normed(hidden_BLD, self.post_attention_layernorm))
        return out


class Eagle3Draft(Draft):
    """An EAGLE-3 draft; see `Draft`."""

    places = Places(
        ffn="layers.0.mlp",
        fuse=("fc", "input_norm", "fc_norm"),
        attention=("layers.0.self_attn",),
        head=("norm", "lm_head", "lm_head_added"),
    )
    predicts_head_in = False

    def __init__(self, config: DraftConfig) -> None:
        assert isinstance(config, Eagle3Config)
        super().__init__(config)
        width, epsilon, width_in = config.hidden_size, config.rms_norm_eps, config.feature_width
        self.fc = nn.Linear(width_in, width, bias=config.fc_bias) if config.layers else None
        self.input_norm = nn.RMSNorm(width_in, eps=epsilon) if config.norm_before_fc else None
        self.fc_norm: nn.Module | None = None
        if config.fc_norm == "each":
            self.fc_norm = nn.ModuleList([nn.RMSNorm(config.target_width, eps=epsilon) for _ in config.layers])
        elif config.fc_norm == "joint":
            self.fc_norm = nn.RMSNorm(width_in, eps=epsilon)
        self.add_embedding()
        self.layers = nn.ModuleList([Eagle3Layer(config)])
        self.norm = nn.RMSNorm(width, eps=epsilon)
        self.lm_head = nn.Linear(width, config.draft_vocab_size, bias=False) if config.own_head else None
        self.lm_head_added: nn.Linear | None = None

    @property
    def shape(self) -> Eagle3Config:
        """The draft's config."""
        assert isinstance(self.config, Eagle3Config)
        return self.config

    @property
    def layer(self) -> Eagle3Layer:
        """The draft's only decoder layer."""
        layer = self.layers[0]
        assert isinstance(layer, Eagle3Layer)
        return layer

    def start(self, draft_in_BLC: Tensor) -> Tensor:
        """Return g, or the target's last state itself for a draft without fc."""
        if self.fc is None:
            return draft_in_BLC
        x_BLC = draft_in_BLC if self.input_norm is None else normed(draft_in_BLC, self.input_norm)
        if isinstance(self.fc_norm, nn.RMSNorm):
            x_BLC = normed(x_BLC, self.fc_norm)
        elif isinstance(self.fc_norm, nn.ModuleList):
            parts = zip(self.fc_norm, x_BLC.chunk(len(self.shape.layers), dim=-1), strict=True)
            x_BLC = torch.cat([normed(part, norm) for norm, part in parts if isinstance(norm, nn.RMSNorm)], dim=-1)
        state_BLD: Tensor = self.fc(x_BLC)
        return state_BLD

    def step(self, embeds_BLD: Tensor, state_BLD: Tensor, positions_BL: Tensor, attend: Attend) -> Tensor:
        """Compute the next state by the equations above."""
        out_BLD: Tensor = self.layer(embeds_BLD, state_BLD, positions_BL, attend)
        return normed(out_BLD, self.norm) if self.shape.norm_output else out_BLD

    def logits(self, state: Tensor, lm_head: LmHead) -> Tensor:
        """See `Draft`."""
        read = state if self.shape.norm_output else normed(state, self.norm)
        if self.lm_head is None:
            return lm_head.logits(read)
        # Called as modules, because ZeRO-3 gathers a weight when its module is called.
        scored = [head(read) for head in (self.lm_head, self.lm_head_added) if head is not None]
        logits: Tensor = scored[0] if len(scored) == 1 else torch.cat(scored, dim=-1)
        return logits if self.shape.logit_scale == 1 else logits * self.shape.logit_scale

    def head_rows(self) -> Tensor | None:
        """Return the rows (W, D) of the draft's own head, added rows last."""
        if self.lm_head is None or self.lm_head_added is None:
            return None if self.lm_head is None else self.lm_head.weight
        return torch.cat([self.lm_head.weight, self.lm_head_added.weight])

    def begin_as(self, lm_head: LmHead) -> None:
        """See `Draft`."""
        if self.lm_head is not None:
            self.lm_head.weight.data.copy_(self._rows_like(lm_head))

    def extend_head(self, count: int) -> None:
        """See `Draft`."""
        if self.lm_head is not None:
            weight = self.lm_head.weight
            self.lm_head_added = nn.Linear(weight.shape[1], count, bias=False).to(weight.device, weight.dtype)
            nn.init.zeros_(self.lm_head_added.weight)

    def begin_added(self, lm_head: LmHead) -> None:
        """See `Draft`."""
        if self.lm_head_added is not None:
            self.lm_head_added.weight.data.copy_(self._rows_like(lm_head))

    def _rows_like(self, lm_head: LmHead) -> Tensor:
        """Return the rows with which the draft's own head gives the logits of the target's head."""
        return lm_head.rows_VD * (lm_head.scale / self.shape.logit_scale)

    def head(self, lm_head: LmHead, vocab_W: Tensor | None) -> DraftHead:
        """See `Draft`."""
        config, rows_WD = self.shape, self.head_rows()
        own = None if rows_WD is None else LmHead(rows_WD.detach(), scale=config.logit_scale)
        norm = None if config.norm_output else norm_of(self.norm, config.rms_norm_eps)
        return DraftHead(lm_head, vocab_W, own=own, norm=norm)
