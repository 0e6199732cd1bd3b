"""Agreement of a draft with answers that the target has written, from every position of them at once and without a
cache.

Row s of `unroll` is a chain that starts after the verified tokens 0..s+1; its step j predicts token s+j+2. A hit is a
prediction that equals the answer's token. Hits by step, whatever came before, are the agreement by position;
consecutive hits from a position are the tokens that a greedy round accepts there, and the rounds follow one another as
in decoding (`Replay` gives the same counts).

Shapes: B answers, L tokens of the longest, C width of what the draft reads, S rows (starts), W draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eda_service.drafts.draft import Draft
from eda_service.drafts.unroll import num_rounds, unroll
from eda_service.evaluation.replay import Transcript
from eda_service.targets.head import LmHead

_BATCH = 8


@dataclass(frozen=True)
class Agreement:
    """Counts over answers.

    Attributes:
        hits: Number of drafted tokens that equal the target's, by position.
        places: Number of drafted tokens, by position.
        num_rounds: Number of rounds of greedy decoding.
    """

    hits: tuple[int, ...]
    places: tuple[int, ...]
    num_rounds: int

    @property
    def by_position(self) -> tuple[float, ...]:
        """Share of drafted tokens that equal the target's, for each position."""
        return tuple(hits / max(1, places) for hits, places in zip(self.hits, self.places, strict=True))

    @property
    def acceptance_length(self) -> float:
        """Tokens per round; 1 if there are no rounds."""
        return self.places[0] / self.num_rounds if self.num_rounds else 1.0


@torch.inference_mode()
def agreement(
    draft: Draft,
    embed: nn.Module,
    lm_head: LmHead,
    vocab_W: Tensor | None,
    answers: Sequence[Transcript],
    *,
    depth: int,
) -> Agreement:
    """Count the hits of a draft's chains.

    Args:
        draft: Draft in training form, on the target's device and in its dtype.
        embed: The target's embedding.
        lm_head: The target's rows of the draft vocabulary.
        vocab_W: Token ids of the draft vocabulary; None: all.
        answers: Greedy answers with the states that this draft reads.
        depth: Number of tokens of a chain.
    """
    hits, places, rounds = [0] * depth, [0] * depth, 0
    by_length = sorted(answers, key=lambda each: len(each.token_ids))
    for start in range(0, len(by_length), _BATCH):
        batch = _Batch.of(by_length[start : start + _BATCH])
        in_row_BS: Tensor | None = None
        accepted_BS = torch.zeros_like(batch.token_ids_BL)
        for step, state_BSD in enumerate(unroll(draft, embed, batch.token_ids_BL, batch.draft_in_BLC, depth)):
            rows, counts_BS = state_BSD.shape[1], batch.counts(step)
            drafted_M = draft.logits(state_BSD[counts_BS], lm_head).argmax(-1)
            tokens_M = drafted_M if vocab_W is None else vocab_W.to(drafted_M.device).long()[drafted_M]
            hits_BS = torch.zeros_like(counts_BS)
            hits_BS[counts_BS] = tokens_M == batch.token_ids_BL[:, step + 2 :][counts_BS]
            hits[step] += int(hits_BS.sum())
            places[step] += int(counts_BS.sum())
            in_row_BS = hits_BS if in_row_BS is None else in_row_BS[:, :rows] & hits_BS
            accepted_BS[:, :rows] += in_row_BS
        for accepted, first, length in zip(accepted_BS.tolist(), batch.firsts, batch.lengths, strict=True):
            rounds += num_rounds(accepted[first : length - 2])
    return Agreement(tuple(hits), tuple(places), rounds)


@dataclass(frozen=True)
class _Batch:
    """Answers padded on the right; no position attends to later ones.

    Attributes:
        firsts: Row of each answer from which its second token is drafted; the prefill gives the first.
        lengths: Number of tokens of each answer, its prompt included.
    """

    token_ids_BL: Tensor
    draft_in_BLC: Tensor
    firsts: list[int]
    lengths: list[int]

    @classmethod
    def of(cls, answers: Sequence[Transcript]) -> _Batch:
        lengths = [len(each.token_ids) for each in answers]
        features = answers[0].features_TD
        token_ids_BL = torch.zeros(len(answers), max(lengths), dtype=torch.long, device=features.device)
        draft_in_BLC = features.new_zeros(len(answers), max(lengths), features.shape[1])
        for i, each in enumerate(answers):
            token_ids_BL[i, : lengths[i]] = torch.tensor(each.token_ids)
            draft_in_BLC[i, : len(each.features_TD)] = each.features_TD
        return cls(token_ids_BL, draft_in_BLC, [each.num_prompt_tokens - 1 for each in answers], lengths)

    def counts(self, step: int) -> Tensor:
        """Return (B, S-j): rows whose token of this step is in the answer."""
        device = self.token_ids_BL.device
        row_S = torch.arange(self.token_ids_BL.shape[1] - 2 - step, device=device)
        first_B1 = torch.tensor(self.firsts, device=device)[:, None]
        last_B1 = torch.tensor(self.lengths, device=device)[:, None] - step - 2
        return (row_S >= first_B1) & (row_S < last_B1)
