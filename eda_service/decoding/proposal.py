"""Proposal: the draft extends its cache with what the target verified, then drafts a chain of K tokens (Eq. 7).

Between rounds every live row owns *pending pairs*: for each newly verified position t, the target's feature h_t and the
token x_{t+1}. The first draft step takes all of them at once and its last output starts the chain; each further step
takes the draft's own feature and token.

Shapes: B rows, P pending pairs (padded), D hidden, K draft tokens, W draft vocabulary, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.decoding.sampling import distribution, draw
from eda_service.model.draft import Draft
from eda_service.model.head import DraftHead
from eda_service.target.attention import visible_mask
from eda_service.target.slots import SlotCache


@dataclass
class Proposal:
    """K drafted tokens per row and, for sampled rows, what they were drawn from."""

    token_ids_BK: Tensor
    probs_BKV: Tensor | None


class Proposer:
    """A draft ready to decode: packed weights, the target's embedding and head, a one-layer slot cache."""

    def __init__(self, draft: Draft, embed: nn.Module, head: DraftHead, *, num_slots: int, max_tokens: int) -> None:
        self.draft, self.embed, self.head = draft, embed, head
        config = draft.config
        weight = draft.layer.post_attention_layernorm.weight
        self.groups = config.num_heads // config.num_kv_heads
        self.device, self.dtype = weight.device, weight.dtype
        self.cache = SlotCache(
            num_layers=1,
            num_slots=num_slots,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_tokens=max_tokens,
            dtype=weight.dtype,
            device=weight.device,
        )

    def extend(self, tokens_BP: Tensor, features_BPD: Tensor, starts: Sequence[int], *, first_slot: int = 0) -> Tensor:
        """Run the draft layer over pairs at positions starts.. and cache them; features of the next positions (B, P,
        D).
        """
        length = tokens_BP.shape[1]
        positions_BP = torch.tensor(starts, device=self.device)[:, None] + torch.arange(length, device=self.device)
        self.cache.begin(positions_BP, max(starts) + length, first_slot=first_slot)
        layer = self.draft.layer
        x_BPD = self.draft.fuse(self.embed(tokens_BP), features_BPD)
        query, key, value = layer.self_attn.project(x_BPD, positions_BP)
        keys, values = self.cache.update(key, value, 0)
        rows, heads, _, width = query.shape
        folded = query.reshape(rows, heads // self.groups, self.groups * length, width)
        mask = visible_mask(positions_BP, keys.shape[2], self.groups, self.dtype)
        out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
        return layer.finish(x_BPD, out.reshape(rows, heads, length, width))

    def propose(
        self,
        tokens_BP: Tensor,
        features_BPD: Tensor,
        starts: Sequence[int],
        counts: Sequence[int],
        num_draft_tokens: int,
        temperatures_B: Tensor | None,
        uniforms_BK: Tensor | None,
    ) -> Proposal:
        """Draft a chain for every row.

        Args:
            tokens_BP: x_{t+1} of the pending pairs, padded on the right.
            features_BPD: h_t of the pending pairs.
            starts: Position t of each row's first pair.
            counts: Number of real pairs per row.
            num_draft_tokens: K.
            temperatures_B: None when every row is greedy.
            uniforms_BK: Draws of the sampled rows; None when every row is greedy.
        """
        features_BPD = self.extend(tokens_BP, features_BPD, starts)
        rows_B = torch.arange(len(counts), device=self.device)
        last_B = torch.tensor(counts, device=self.device) - 1
        feature_B1D = features_BPD[rows_B, last_B][:, None]
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        tokens: list[Tensor] = []
        probs: list[Tensor] = []
        for step in range(num_draft_tokens):
            if step:
                feature_B1D = self.extend(tokens[-1][:, None], feature_B1D, [end + step - 1 for end in ends])
            logits_B1W = self.head(feature_B1D)
            if temperatures_B is None or uniforms_BK is None:
                draft_ids_B = logits_B1W.argmax(-1).squeeze(1)
            else:
                probs_BW = distribution(logits_B1W, temperatures_B).squeeze(1)
                draft_ids_B = draw(probs_BW, uniforms_BK[:, step])
                probs.append(self.head.scatter_probs(probs_BW))
            tokens.append(self.head.to_token_ids(draft_ids_B))
        return Proposal(torch.stack(tokens, dim=1), torch.stack(probs, dim=1) if probs else None)
