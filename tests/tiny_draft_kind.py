"""A second kind of draft, small and unlike EAGLE-1 in every point that the seam leaves to a kind.

It reads two states of the target side by side, mixes embedding and state in one attention, has a vocabulary, a norm and
a head of its own, and its state estimates nothing of the target's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from eda_service.decoding.fused.ffn import FFNRows, PrivateFFN, SharedFFN, WholeFFN, adapted_ffn, as_expert
from eda_service.decoding.fused.kinds import FUSED
from eda_service.decoding.fused.protocol import DraftParts, Weights
from eda_service.decoding.row_groups import RowGroups
from eda_service.drafts.draft import Attend, Draft, Places
from eda_service.drafts.draft_config import CONFIGS, DraftConfig, PartSizes
from eda_service.drafts.expert import Expert
from eda_service.drafts.head import DraftHead
from eda_service.drafts.kinds import DRAFTS
from eda_service.drafts.rotary import rotate
from eda_service.targets.decoder.attention import attend
from eda_service.targets.decoder.fused import norm_of
from eda_service.targets.decoder.packed import FrozenLinear, fuse_linears, make_linear
from eda_service.targets.decoder.slots import SlotCache
from eda_service.targets.head import LmHead

EPSILON = 1e-5


class TinyConfig(DraftConfig):
    kind: Literal["tiny"] = "tiny"
    layers: tuple[int, ...] = (1, 2)
    draft_vocab_size: int

    @property
    def captures(self) -> tuple[int, ...]:
        return self.layers

    @property
    def own_vocab_size(self) -> int | None:
        return self.draft_vocab_size

    @property
    def sizes(self) -> PartSizes:
        d, heads = self.hidden_size, self.head_dim * (self.num_heads + 2 * self.num_kv_heads)
        attention = 2 * d * heads + d * self.num_heads * self.head_dim
        return PartSizes(
            fuse=d * self.feature_width,
            attention=attention,
            others=d + d * self.draft_vocab_size + 3 * d * self.expert_width,
        )


class Mixing(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        d, width = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(2 * d, config.num_heads * width, bias=False)
        self.k_proj = nn.Linear(2 * d, config.num_kv_heads * width, bias=False)
        self.v_proj = nn.Linear(2 * d, config.num_kv_heads * width, bias=False)
        self.o_proj = nn.Linear(config.num_heads * width, d, bias=False)


class TinyDraft(Draft):
    places = Places(ffn="mlp", fuse=("fc",), attention=("mixing",), head=("norm", "lm_head"))
    predicts_head_in = False

    def __init__(self, config: DraftConfig) -> None:
        assert isinstance(config, TinyConfig)
        super().__init__(config)
        self.fc = nn.Linear(config.feature_width, config.hidden_size, bias=False)
        self.mixing = Mixing(config)
        self.mlp: nn.Module = Expert(config.hidden_size, config.expert_width)
        self.norm = nn.RMSNorm(config.hidden_size, eps=EPSILON)
        self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)

    def start(self, draft_in_BLC: Tensor) -> Tensor:
        state: Tensor = self.fc(draft_in_BLC)
        return state

    def step(self, embeds_BLD: Tensor, state_BLD: Tensor, positions_BL: Tensor, attend: Attend) -> Tensor:
        x_BLE, shape = torch.cat([embeds_BLD, state_BLD], dim=-1), (*positions_BL.shape, -1, self.config.head_dim)
        linears = (self.mixing.q_proj, self.mixing.k_proj, self.mixing.v_proj)
        query, key, value = (linear(x_BLE).view(shape).transpose(1, 2) for linear in linears)
        theta = self.config.rope_theta
        attended = attend(rotate(query, positions_BL, theta), rotate(key, positions_BL, theta), value)
        hidden = state_BLD + self.mixing.o_proj(attended.transpose(1, 2).flatten(2))
        out: Tensor = hidden + self.mlp(hidden)
        return out

    def logits(self, state: Tensor, lm_head: LmHead) -> Tensor:
        out: Tensor = self.lm_head(self.norm(state))
        return out

    def head(self, lm_head: LmHead, vocab_W: Tensor | None) -> DraftHead:
        return DraftHead(lm_head, vocab_W, own=LmHead(self.lm_head.weight.detach()), norm=norm_of(self.norm, EPSILON))


@dataclass(frozen=True)
class TinyParts(DraftParts):
    fc: FrozenLinear
    qkv: FrozenLinear
    out: FrozenLinear
    ffn: WholeFFN | SharedFFN
    private: PrivateFFN | None

    @property
    def weights(self) -> Sequence[Weights]:
        return [self.fc, self.qkv, self.out, self.ffn, *([] if self.private is None else [self.private])]


def _parts(
    draft: Draft, ffn: WholeFFN | SharedFFN, private: PrivateFFN | None = None, base: TinyParts | None = None
) -> TinyParts:
    """Packs of this kind train the private expert alone: all else is the base's."""
    assert isinstance(draft, TinyDraft)
    mixing, weight = draft.mixing, draft.fc.weight
    return TinyParts(
        config=draft.config,
        dtype=weight.dtype,
        device=weight.device,
        fc=base.fc if base else make_linear(weight.detach()),
        qkv=base.qkv if base else fuse_linears([mixing.q_proj, mixing.k_proj, mixing.v_proj]),
        out=base.out if base else make_linear(mixing.o_proj.weight.detach()),
        ffn=ffn,
        private=private,
    )


@dataclass
class TinyFused:
    config: DraftConfig
    embed: nn.Module
    max_tokens: int
    dtype: torch.dtype
    device: torch.device

    @property
    def num_groups(self) -> int:
        return self.config.num_heads // self.config.num_kv_heads

    def new_cache(self, num_slots: int, max_tokens: int) -> SlotCache:
        return SlotCache(
            num_layers=1,
            num_slots=num_slots,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            max_tokens=max_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def rows(self, parts: Sequence[DraftParts]) -> TinyRows:
        own = [each for each in parts if isinstance(each, TinyParts)]
        assert len(own) == len(parts)
        return TinyRows(self, own)


class TinyRows:
    def __init__(self, fused: TinyFused, parts: Sequence[TinyParts]) -> None:
        self.fused, device = fused, fused.device
        self.fc, self.qkv, self.out = (
            RowGroups.of([getattr(each, name) for each in parts], device) for name in ("fc", "qkv", "out")
        )
        self.ffn = FFNRows([(each.ffn, each.private) for each in parts], device)

    def start(self, draft_in_BLC: Tensor) -> Tensor:
        return self.fc.apply(lambda linear, x: linear(x), draft_in_BLC)

    def step(
        self, tokens_BL: Tensor, state_BLD: Tensor, positions_BL: Tensor, cache: SlotCache, mask: Tensor | None
    ) -> Tensor:
        config = self.fused.config
        x_BLE = torch.cat([self.fused.embed(tokens_BL), state_BLD], dim=-1)
        qkv = self.qkv.apply(lambda linear, x: linear(x), x_BLE).unflatten(-1, (-1, config.head_dim))
        query, key, value = qkv.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=2)
        query, key = (rotate(x.transpose(1, 2), positions_BL, config.rope_theta) for x in (query, key))
        keys, values = cache.write(key.transpose(1, 2), value, 0)
        attended = attend(query, keys, values, mask).transpose(1, 2).flatten(2)
        hidden = state_BLD + self.out.apply(lambda linear, x: linear(x), attended)
        return hidden + self.ffn(hidden)


class TinyKind:
    def whole_parts(self, draft: Draft) -> DraftParts:
        return _parts(draft, WholeFFN(draft.ffn))

    def shared_parts(self, draft: Draft) -> DraftParts:
        return _parts(draft, SharedFFN(as_expert(draft.ffn)))

    def adapted_parts(self, draft: Draft, base: DraftParts, trained: frozenset[str]) -> DraftParts:
        assert isinstance(base, TinyParts)
        return _parts(draft, *adapted_ffn(draft, base.ffn, trained), base)

    def fused(
        self, config: DraftConfig, embed: nn.Module, *, max_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> TinyFused:
        return TinyFused(config, embed, max_tokens, dtype, device)


@contextmanager
def tiny_kind() -> Iterator[None]:
    """The kind in all three tables, while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", TinyConfig)
        patch.setitem(DRAFTS, "tiny", TinyDraft)
        patch.setitem(FUSED, "tiny", TinyKind())
        yield
