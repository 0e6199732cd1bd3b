"""One round over all live rows: propose, verify with one target forward, and return the result of each row.

Draws. Without a draft, and with a tree, the target draws one token per position from the request's own stream, so a
seeded answer does not depend on the draft. A chain spends K draws on drafting, K on acceptance and one on the token the
target adds.

Shapes: B rows, K draft tokens of a chain, N drafted nodes, L = N + 1 verified tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eda_service.config.job import TreeConfig
from eda_service.decoding.live import (
    LiveRequest,
    adapters_of,
    decoding_drafts_of,
    histories_of,
    pending_of,
    truncation_of,
)
from eda_service.decoding.logprobs import score_rows
from eda_service.decoding.proposal import Chain, Confidence, Proposer
from eda_service.decoding.request import TokenLogprobs
from eda_service.decoding.sampling import Truncation, distribution, draw, is_finite, most_likely
from eda_service.decoding.shaping import Verified, shape
from eda_service.decoding.tree import DraftTree
from eda_service.decoding.verification import verify_greedy, verify_sampled, verify_tree
from eda_service.targets.decoder.slots import SlotCache
from eda_service.targets.loader import Target
from eda_service.targets.states import TargetStates

_FEW_PENDING = 16


@dataclass
class RowResult:
    """The result of a round for one row.

    Attributes:
        token_ids: Accepted tokens, then the correction or bonus token.
        nodes: Indices of the root and the accepted tokens among the verified ones; `token_ids` follow from the states
            there.
        states: The target's states of all verified tokens (L, ..).
        num_proposed: Drafted tokens.
        finite: Whether the target's logits were all finite; if not, the rest is meaningless.
        logprobs: Log-probabilities of `token_ids`, for rows that ask for them.
    """

    token_ids: list[int]
    nodes: list[int]
    states: TargetStates
    num_proposed: int
    finite: bool
    logprobs: list[TokenLogprobs] | None = None


@dataclass
class Draws:
    """Uniforms and parameters for sampling a batch with at least one row above T=0; rows are in batch order."""

    temperatures_B: Tensor
    kept: Truncation | None
    uniforms_BU: Tensor
    any_greedy: bool


class Rounds:
    """Runs rounds over one target and at most one proposer.

    Args:
        target: Frozen target.
        cache: The target's cache, with a slot for each row.
        proposer: The proposer; None decodes autoregressively.
        tree: Shape of draft trees; None drafts chains.
        captures: The target's states that drafts read.
    """

    def __init__(
        self,
        target: Target,
        cache: SlotCache,
        proposer: Proposer | None,
        tree: TreeConfig | None,
        captures: Sequence[int] = (),
    ) -> None:
        self.target, self.cache, self.proposer, self.tree, self.captures = target, cache, proposer, tree, captures

    def catch_up(self, live: Sequence[LiveRequest]) -> None:
        """Run the draft over most of the pairs it missed, for rows that missed many: a new prompt, or rounds without
        drafting.

        Rows are run one by one: within a round every row would be padded to the longest.
        """
        for slot, request in enumerate(live):
            if self.proposer is not None and len(request.pending_tokens) > _FEW_PENDING:
                tokens, features_PC, start = request.take_all_but_last()
                tokens_1P = torch.tensor([tokens], device=self.target.device)
                decoding_drafts = decoding_drafts_of([request])
                self.proposer.extend(
                    tokens_1P, features_PC[None], [start], first_slot=slot, decoding_drafts=decoding_drafts
                )

    def run(self, live: Sequence[LiveRequest], depth: int, go_on: Confidence | None = None) -> list[RowResult]:
        """Run one round.

        Args:
            live: The live requests in slot order.
            depth: Greatest number of drafted tokens; 0 drafts nothing and is an autoregressive step.
            go_on: Function that may end a chain early; None: no chain ends early.
        """
        if depth == 0 or self.proposer is None:
            results, logits_BLV = self._autoregressive(live)
        elif self.tree is not None:
            results, logits_BLV = self._tree(live, self.proposer, self.tree.model_copy(update={"depth": depth}))
        else:
            results, logits_BLV = self._chain(live, self.proposer, depth, go_on)
        places, tokens = [each.nodes for each in results], [each.token_ids for each in results]
        for result, logprobs in zip(results, score_rows(live, logits_BLV, places, tokens), strict=True):
            result.logprobs = logprobs
        return results

    def _verify_forward(
        self, live: Sequence[LiveRequest], drafted: Chain | DraftTree | None
    ) -> tuple[Tensor, TargetStates]:
        """Return ids (B, L) and states (B, L, ..) of each row's last token and of the tokens drafted after it."""
        last_B1 = torch.tensor([[request.last_token] for request in live], device=self.target.device)
        starts, adapters = [request.num_cached for request in live], adapters_of(live)
        if drafted is None:
            return last_B1, self.target.forward(last_B1, self.cache, starts, adapters=adapters, captures=self.captures)
        drafted_BN = drafted.token_ids_BK if isinstance(drafted, Chain) else drafted.token_ids_BN
        ids_BL = torch.cat([last_B1, drafted_BN], dim=1)
        shape = drafted.shape if isinstance(drafted, DraftTree) else None
        states = self.target.forward(ids_BL, self.cache, starts, tree=shape, adapters=adapters, captures=self.captures)
        return ids_BL, states

    def _autoregressive(self, live: Sequence[LiveRequest]) -> tuple[list[RowResult], Tensor]:
        _, states = self._verify_forward(live, None)
        logits_B1V = self.target.head(states.head_in)
        next_B = self.choose(live, logits_B1V).squeeze(1)
        finite = is_finite(logits_B1V).tolist()
        for request in live:
            request.consume(1)
        tokens = enumerate(next_B.tolist())
        return [RowResult([token], [0], states[i], 0, finite[i]) for i, token in tokens], logits_B1V

    def choose(
        self, live: Sequence[LiveRequest], logits_BLV: Tensor, verified: Verified | None = None, depth: int = 0
    ) -> Tensor:
        """Choose the target's own token after each position (B, L): its argmax, or its draw with the next uniform of
        the request's stream. Nodes of a verified tree at the same depth (at most `depth`) share a uniform.
        """
        logits_BLV = shape(histories_of(live), logits_BLV, verified)
        draws = self._draws(live, depth + 1)
        if draws is None:
            return most_likely(logits_BLV)
        probs_BLV = distribution(logits_BLV, draws.temperatures_B, draws.kept, any_greedy=draws.any_greedy)
        tree = None if verified is None else verified.tree
        uniforms_BL = draws.uniforms_BU if tree is None else draws.uniforms_BU.gather(1, tree.depths_BL)
        return draw(probs_BLV, uniforms_BL)

    def _draws(self, live: Sequence[LiveRequest], count: int) -> Draws | None:
        """Collect the inputs of sampling with each row's next `count` uniforms; None where every row is greedy."""
        temperatures = [request.params.temperature for request in live]
        if max(temperatures) == 0:
            return None
        device = self.target.device
        return Draws(
            torch.tensor(temperatures, device=device),
            truncation_of(live, device),
            torch.tensor([request.peek(count) for request in live], device=device),
            any_greedy=min(temperatures) == 0,
        )

    def _tree(
        self, live: Sequence[LiveRequest], proposer: Proposer, config: TreeConfig
    ) -> tuple[list[RowResult], Tensor]:
        temperatures = torch.tensor([request.params.temperature for request in live], device=self.target.device)
        drafted = proposer.tree(pending_of(live), config, temperatures)
        ids_BL, states = self._verify_forward(live, drafted)
        logits_BLV = self.target.head(states.head_in)
        chosen_BL = self.choose(live, logits_BLV, Verified(ids_BL, drafted.shape), config.depth)
        verdict = verify_tree(chosen_BL, drafted, config.depth, _speculates(live, self.target.device))
        path_ids_BK = ids_BL.gather(1, verdict.path_BK)
        columns = (verdict.num_accepted_B, verdict.next_ids_B, is_finite(logits_BLV))
        table = torch.cat([torch.stack(columns, dim=1), verdict.path_BK, path_ids_BK], dim=1).tolist()
        depth, size = verdict.path_BK.shape[1], drafted.token_ids_BN.shape[1]
        results = []
        for i, (request, (count, next_id, finite, *rest)) in enumerate(zip(live, table, strict=True)):
            nodes, tokens = [0, *rest[:count]], rest[depth : depth + count]
            if finite:
                self.cache.compact(i, request.num_cached, nodes)
            proposed = size if request.params.speculate else 0
            results.append(RowResult([*tokens, next_id], nodes, states[i], proposed, bool(finite)))
            request.consume(count + 1)
        return results, logits_BLV

    def _chain(
        self, live: Sequence[LiveRequest], proposer: Proposer, depth: int, go_on: Confidence | None
    ) -> tuple[list[RowResult], Tensor]:
        draws, pending = self._chain_draws(live, depth), pending_of(live)
        if draws is None:
            drafted = proposer.chain(pending, depth, go_on=go_on)
        else:
            drafted = proposer.chain(pending, depth, draws.temperatures_B, draws.uniforms_BU[:, :depth], go_on=go_on)
        ids_BL, states = self._verify_forward(live, drafted)
        logits_BLV = self.target.head(states.head_in)
        shaped_BLV = shape(histories_of(live), logits_BLV, Verified(ids_BL))
        accepted_B, next_B = self._verify_chain(live, shaped_BLV, drafted, draws, depth)
        columns = (accepted_B, next_B, is_finite(logits_BLV))
        table = torch.cat([torch.stack(columns, dim=1), ids_BL], dim=1).tolist()
        results = []
        for i, (request, (count, next_id, finite, _, *tokens)) in enumerate(zip(live, table, strict=True)):
            proposed = len(tokens) if request.params.speculate else 0
            nodes = list(range(count + 1))
            results.append(RowResult([*tokens[:count], next_id], nodes, states[i], proposed, bool(finite)))
        return results, logits_BLV

    def _chain_draws(self, live: Sequence[LiveRequest], depth: int) -> Draws | None:
        """Collect K draws for drafting, K for acceptance and one for the target; a row that does not speculate uses
        only the last.
        """
        total = 2 * depth + 1
        draws = self._draws(live, total)
        if draws is None:
            return None
        for i, request in enumerate(live):
            if not request.params.speculate:
                draws.uniforms_BU[i, -1] = draws.uniforms_BU[i, 0]
            request.consume(total if request.params.speculate else 1)
        return draws

    def _verify_chain(
        self, live: Sequence[LiveRequest], logits_BLV: Tensor, drafted: Chain, draws: Draws | None, depth: int
    ) -> tuple[Tensor, Tensor]:
        """Return (num_accepted_B, next_ids_B) of all rows, from logits that are already shaped by the requests."""
        speculates_B = _speculates(live, self.target.device)
        if draws is None or drafted.probs_BKV is None:
            return verify_greedy(most_likely(logits_BLV), drafted.token_ids_BK, speculates_B)
        probs_BLV = distribution(logits_BLV, draws.temperatures_B, draws.kept, any_greedy=draws.any_greedy)
        length = drafted.token_ids_BK.shape[1]
        uniforms_BL = torch.cat([draws.uniforms_BU[:, depth : depth + length], draws.uniforms_BU[:, -1:]], dim=1)
        return verify_sampled(probs_BLV, drafted.probs_BKV, drafted.token_ids_BK, uniforms_BL, speculates_B)


def _speculates(live: Sequence[LiveRequest], device: torch.device) -> Tensor | None:
    """Return (B,) which rows take draft tokens; None if all do."""
    flags = [request.params.speculate for request in live]
    return None if all(flags) else torch.tensor(flags, device=device)
