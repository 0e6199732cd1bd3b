"""Proposal: the draft extends its cache with what the target verified, then drafts a chain or a tree (Eq. 7).

Between rounds every live row owns *pending pairs*: for each newly verified position t, the target's states there that
the draft reads (its feature h_t) and the token x_{t+1}. The first draft step takes all of them at once and its last
output starts the draft; each further step takes the draft's own states and tokens.

Shapes: B rows, P pending pairs (padded), C width of a feature, D hidden, K draft tokens of a chain, N nodes of a tree,
W width of a tree, V vocabulary.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eda_service.config.job import TreeConfig
from eda_service.decoding.fused.kinds import fused_draft, whole_parts
from eda_service.decoding.fused.protocol import DecodingDraft, DraftRows
from eda_service.decoding.head_rows import HeadRows
from eda_service.decoding.tree import Candidates, DraftTree, keep_best
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.targets.decoder.attention import tree_mask, visible_mask
from eda_service.targets.decoder.attention_products import keys_to_see


@dataclass
class Chain:
    """K drafted tokens per row and, for sampled rows, the distributions they were drawn from."""

    token_ids_BK: Tensor
    probs_BKV: Tensor | None


Confidence = Callable[[Tensor], bool]


@dataclass
class Pending:
    """The pairs of every row that the draft has not seen.

    Attributes:
        tokens_BP: x_{t+1}, padded on the right.
        features_BPC: h_t of the same positions.
        starts: Position t of each row's first pair.
        counts: Number of real pairs per row.
        decoding_drafts: The draft of each row; None: the proposer's first draft.
    """

    tokens_BP: Tensor
    features_BPC: Tensor
    starts: Sequence[int]
    counts: Sequence[int]
    decoding_drafts: Sequence[DecodingDraft] | None = None

    @property
    def ends(self) -> list[int]:
        """Position of the first drafted pair of each row."""
        return [start + count for start, count in zip(self.starts, self.counts, strict=True)]


class Proposer:
    """Drafts of one shape over one target, ready to decode, with their slot cache.

    Args:
        decoding_draft: The first draft, which is also the draft of rows that name none.
        embed: The target's embedding.
        num_slots: Largest number of sequences at the same time.
        max_tokens: Longest sequence in tokens, drafted tokens and tree nodes included.
    """

    def __init__(self, decoding_draft: DecodingDraft, embed: nn.Module, *, num_slots: int, max_tokens: int) -> None:
        self.decoding_draft, self.device, self.dtype = (
            decoding_draft,
            decoding_draft.parts.device,
            decoding_draft.parts.dtype,
        )
        self._fused = fused_draft(decoding_draft.parts, embed, max_tokens=max_tokens)
        self.groups = self._fused.num_groups
        self.cache = self._fused.new_cache(num_slots, max_tokens)
        self._rows: tuple[tuple[DecodingDraft, ...], DraftRows, HeadRows] | None = None

    @classmethod
    def of(cls, draft: Draft, embed: nn.Module, head: DraftHead, *, num_slots: int, max_tokens: int) -> Proposer:
        """Make a proposer for one draft."""
        return cls(DecodingDraft(whole_parts(draft), head), embed, num_slots=num_slots, max_tokens=max_tokens)

    def _rows_of(self, decoding_drafts: Sequence[DecodingDraft] | None, num_rows: int) -> tuple[DraftRows, HeadRows]:
        """Return the parts of a batch; those of the last batch are kept, because most rounds have the same rows."""
        wanted = tuple(decoding_drafts) if decoding_drafts is not None else (self.decoding_draft,) * num_rows
        kept = self._rows
        same = kept is not None and len(kept[0]) == len(wanted) and all(map(operator.is_, kept[0], wanted))
        if kept is None or not same:
            heads = HeadRows([decoding_draft.head for decoding_draft in wanted], self.device)
            kept = (wanted, self._fused.rows([decoding_draft.parts for decoding_draft in wanted]), heads)
            self._rows = kept
        return kept[1], kept[2]

    def forget(self) -> None:
        """Drop the references to the last batch's drafts."""
        self._rows = None

    def extend(
        self,
        tokens_BP: Tensor,
        features_BPC: Tensor,
        starts: Sequence[int],
        *,
        first_slot: int = 0,
        decoding_drafts: Sequence[DecodingDraft] | None = None,
    ) -> Tensor:
        """Run the draft over pairs from positions `starts` on and cache them; return its states of the next positions
        (B, P, D).
        """
        drafts, _ = self._rows_of(decoding_drafts, len(tokens_BP))
        return self._step(drafts, tokens_BP, drafts.start(features_BPC), starts, first_slot=first_slot)

    def _step(
        self, drafts: DraftRows, tokens_BP: Tensor, state_BPD: Tensor, starts: Sequence[int], *, first_slot: int = 0
    ) -> Tensor:
        length = tokens_BP.shape[1]
        positions_BP = torch.tensor(starts, device=self.device)[:, None] + torch.arange(length, device=self.device)
        num_keys = keys_to_see(max(starts) + length, positions_BP.numel(), self.dtype, self.device)
        self.cache.begin(positions_BP, num_keys, first_slot=first_slot)
        mask = visible_mask(positions_BP, num_keys, self.groups, self.dtype)
        return drafts.step(tokens_BP, state_BPD, positions_BP, self.cache, mask)

    def begin(self, pending: Pending) -> Tensor:
        """Run the draft over the pending pairs and return the state (B, 1, D) from which the first token is drafted."""
        state_BPD = self.extend(
            pending.tokens_BP, pending.features_BPC, pending.starts, decoding_drafts=pending.decoding_drafts
        )
        last_B = torch.tensor(pending.counts, device=self.device) - 1
        return state_BPD[torch.arange(len(pending.counts), device=self.device), last_B][:, None]

    def chain(
        self,
        pending: Pending,
        num_draft_tokens: int,
        temperatures_B: Tensor | None = None,
        uniforms_BK: Tensor | None = None,
        *,
        go_on: Confidence | None = None,
    ) -> Chain:
        """Draft a chain for every row.

        Args:
            pending: The pairs that the draft has not seen.
            num_draft_tokens: K, the length of the chain.
            temperatures_B: None when every row is greedy.
            uniforms_BK: Draws of the sampled rows; None when every row is greedy.
            go_on: Function called after each token but the last with the draft probability of every row's token (B,);
                where it returns False, the chain ends early. It sees drafted tokens only, so the distribution of the
                output does not depend on it.
        """
        state_B1D = self.begin(pending)
        ends = pending.ends
        drafts, heads = self._rows_of(pending.decoding_drafts, len(ends))
        tokens: list[Tensor] = []
        probs: list[Tensor] = []
        for step in range(num_draft_tokens):
            if step:
                starts = [end + step - 1 for end in ends]
                state_B1D = self._step(drafts, tokens[-1][:, None], state_B1D, starts)
            uniforms_B = None if uniforms_BK is None else uniforms_BK[:, step]
            asks = go_on is not None and step + 1 < num_draft_tokens
            drafted = heads.next_tokens(state_B1D, temperatures_B, uniforms_B, confident=asks)
            tokens.append(drafted.token_ids_B)
            if drafted.probs_BV is not None:
                probs.append(drafted.probs_BV)
            if go_on is not None and drafted.own_B is not None and not go_on(drafted.own_B):
                break
        return Chain(torch.stack(tokens, dim=1), torch.stack(probs, dim=1) if probs else None)

    def tree(self, pending: Pending, config: TreeConfig, temperatures_B: Tensor | None = None) -> DraftTree:
        """Grow and cut a tree for every row.

        Args:
            pending: The pairs that the draft has not seen.
            config: Size, depth and width.
            temperatures_B: Temperatures of the draft's scores; 0 and None use the scores unchanged. They decide only
                which nodes are drafted, and never change the distribution of the output.
        """
        state_B1D = self.begin(pending)
        ends, rows = pending.ends, len(pending.counts)
        drafts, heads = self._rows_of(pending.decoding_drafts, rows)
        ids_B1W, scores_B1W = heads.best_tokens(state_B1D, config.width, temperatures_B)
        beam_ids_BW, beam_scores_BW = ids_B1W.squeeze(1), scores_B1W.squeeze(1)
        pool = Candidates(beam_ids_BW, beam_scores_BW, torch.full_like(beam_ids_BW, -1))
        width = beam_ids_BW.shape[1]
        beam_pool_BW = torch.arange(width, device=self.device).expand(rows, -1)
        beam_states_BWD = state_B1D.expand(-1, width, -1)
        ancestors_BWN = torch.eye(width, device=self.device, dtype=torch.bool).expand(rows, -1, -1)
        for level in range(config.depth - 1):
            states_BWD = self._expand(drafts, beam_ids_BW, beam_states_BWD, ends, level, ancestors_BWN)
            ids_BWW, scores_BWW = heads.best_tokens(states_BWD, width, temperatures_B)
            scores_BC = (scores_BWW + beam_scores_BW[..., None]).flatten(1)
            parents_BC = beam_pool_BW[..., None].expand(-1, -1, width).flatten(1)
            offset = pool.scores_BP.shape[1]
            pool = pool.extend(Candidates(ids_BWW.flatten(1), scores_BC, parents_BC))
            best_BW = scores_BC.topk(width, dim=1).indices
            parent_BW = best_BW // width
            beam_ids_BW, beam_scores_BW = ids_BWW.flatten(1).gather(1, best_BW), scores_BC.gather(1, best_BW)
            beam_pool_BW = best_BW + offset
            beam_states_BWD = states_BWD.gather(1, parent_BW[..., None].expand_as(states_BWD))
            inherited_BWN = ancestors_BWN.gather(1, parent_BW[..., None].expand_as(ancestors_BWN))
            own_BWW = torch.eye(width, device=self.device, dtype=torch.bool).expand(rows, -1, -1)
            ancestors_BWN = torch.cat([inherited_BWN, own_BWW], dim=2)
        return keep_best(pool, config.size, config.depth)

    def _expand(
        self,
        drafts: DraftRows,
        ids_BW: Tensor,
        states_BWD: Tensor,
        ends: Sequence[int],
        level: int,
        ancestors_BWN: Tensor,
    ) -> Tensor:
        """Run the draft over one level of the tree: all nodes at position end + level, each attending to its own path
        only.
        """
        width = ids_BW.shape[1]
        ends_B = torch.tensor(ends, device=self.device)
        places_BW = ends_B[:, None] + level * width + torch.arange(width, device=self.device)
        num_keys = keys_to_see(max(ends) + (level + 1) * width, places_BW.numel(), self.dtype, self.device)
        self.cache.begin(places_BW, num_keys)
        mask = tree_mask(ends_B, ancestors_BWN, num_keys, self.groups, self.dtype)
        positions_BW = (ends_B + level)[:, None].expand(-1, width)
        return drafts.step(ids_BW, states_BWD, positions_BW, self.cache, mask)
