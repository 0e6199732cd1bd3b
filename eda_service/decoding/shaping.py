"""Shaping of the target's logits as a request asks for it: bias, penalties, tokens that may not be chosen.

The order and the arithmetic are vLLM's (`v1/sample/sampler.py`) and transformers' (`RepetitionPenaltyLogitsProcessor`):
bias; repetition penalty over prompt and answer; frequency and presence penalty over the answer; then minus infinity for
suppressed tokens and for stop tokens that come too early. Temperature and truncation come later, in `sampling`.

In a round the penalties of a position count the prompt, the answer so far, and the drafted tokens on the position's own
path, so that each node is verified with the logits that autoregressive decoding would use there. A token's penalised
logit depends on its raw logit and its counts alone: it is computed once for the whole vocabulary with the counts before
the round, and once more for the few drafted tokens, whose results overwrite the first.

Rows that use none of this cost nothing, and nothing here waits for the device.

Shapes: B rows, P rows that ask, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eda_service.decoding.request import SamplingParams
from eda_service.targets.decoder.attention import TreeShape


@dataclass
class History:
    """The tokens and parameters that a request's logits are shaped by.

    Attributes:
        stop_ids: Tokens that may not be chosen before `params.min_new_tokens`.
        num_new_tokens: Number of tokens of the answer so far.
    """

    params: SamplingParams
    prompt_ids: Sequence[int]
    stop_ids: frozenset[int]
    answer_ids: list[int] = field(default_factory=list)
    num_new_tokens: int = 0
    _counts: _Counts | None = None

    @property
    def shapes(self) -> bool:
        """Whether the next logits differ from the target's own."""
        params = self.params
        return bool(params.penalises or params.logit_bias or params.suppress_token_ids or self._bans_some)

    @property
    def _bans_some(self) -> bool:
        begins = self.num_new_tokens == 0 and bool(self.params.begin_suppress_token_ids)
        return begins or self.num_new_tokens < self.params.min_new_tokens

    def add(self, token_ids: Sequence[int]) -> None:
        """Count new tokens of the answer."""
        self.num_new_tokens += len(token_ids)
        if self._counts is not None:
            self._counts.add(token_ids)
        elif self.params.penalises:
            self.answer_ids += token_ids

    def counts(self, vocab_size: int, device: torch.device) -> _Counts:
        """Return the counts; they are made at the first call and then kept."""
        if self._counts is None:
            self._counts = _Counts.of(self.prompt_ids, vocab_size, device)
            self._counts.add(self.answer_ids)
        return self._counts


@dataclass
class _Counts:
    """The tokens of one request: which are in the prompt, and how often each is in the answer (exact in float32)."""

    in_prompt_V: Tensor
    num_in_answer_V: Tensor

    @classmethod
    def of(cls, prompt_ids: Sequence[int], vocab_size: int, device: torch.device) -> _Counts:
        in_prompt_V = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        in_prompt_V[torch.tensor(prompt_ids, device=device)] = True
        return cls(in_prompt_V, torch.zeros(vocab_size, device=device))

    def add(self, token_ids: Sequence[int]) -> None:
        ids = torch.tensor(token_ids, device=self.in_prompt_V.device, dtype=torch.long)
        self.num_in_answer_V.index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))


@dataclass(frozen=True)
class Verified:
    """The tokens at the positions of a round.

    Attributes:
        ids_BL: The last token of the answer, then the drafted ones.
        tree: Shape of the tree that the tokens form; None for a chain.
    """

    ids_BL: Tensor
    tree: TreeShape | None = None


def shape(histories: Sequence[History], logits_BLV: Tensor, verified: Verified | None = None) -> Tensor:
    """Shape the logits as the requests ask for it, in float32; the same tensor is returned if no row asks.

    Args:
        histories: The history of each row.
        logits_BLV: The target's logits, which are not changed.
        verified: The drafted tokens; None where each row has one position.
    """
    asking = [i for i, each in enumerate(histories) if each.shapes]
    if not asking:
        return logits_BLV
    shaped_BLV = logits_BLV.to(torch.float32, copy=True)
    for i in asking:
        _add_bias(shaped_BLV[i], histories[i].params.logit_bias)
    penalising = [i for i in asking if histories[i].params.penalises]
    if penalising:
        _penalise(shaped_BLV, histories, penalising, verified)
    for i in asking:
        _ban(shaped_BLV[i], histories[i], _depths(i, logits_BLV, verified))
    return shaped_BLV


def _add_bias(logits_LV: Tensor, bias: Sequence[tuple[int, float]]) -> None:
    if bias:
        ids, values = zip(*bias, strict=True)
        logits_LV[:, torch.tensor(ids, device=logits_LV.device)] += torch.tensor(values, device=logits_LV.device)


def _penalise(shaped_BLV: Tensor, histories: Sequence[History], rows: list[int], verified: Verified | None) -> None:
    device, vocab_size = shaped_BLV.device, shaped_BLV.shape[2]
    counts = [histories[i].counts(vocab_size, device) for i in rows]
    in_prompt_PV = torch.stack([each.in_prompt_V for each in counts])
    num_in_answer_PV = torch.stack([each.num_in_answer_V for each in counts])
    penalties = _Penalties.of([histories[i].params for i in rows], device)
    rows_P = torch.tensor(rows, device=device)
    logits_PLV = shaped_BLV[rows_P]
    penalised_PLV = penalties.apply(logits_PLV, in_prompt_PV[:, None], num_in_answer_PV[:, None])
    if verified is not None:
        ids_PL = verified.ids_BL[rows_P]
        num_drafted_PLL = _drafted_before(ids_PL, _paths(rows_P, verified))
        ids_PLL = ids_PL[:, None].expand_as(num_drafted_PLL)
        in_prompt_PLL = in_prompt_PV.gather(1, ids_PL)[:, None]
        num_in_answer_PLL = num_in_answer_PV.gather(1, ids_PL)[:, None] + num_drafted_PLL
        again_PLL = penalties.apply(logits_PLV.gather(2, ids_PLL), in_prompt_PLL, num_in_answer_PLL)
        penalised_PLV.scatter_(2, ids_PLL, again_PLL)  # equal ids get equal values, in whatever order
    shaped_BLV[rows_P] = penalised_PLV


@dataclass(frozen=True)
class _Penalties:
    repetition_P11: Tensor
    presence_P11: Tensor
    frequency_P11: Tensor

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device) -> _Penalties:
        values = [[each.repetition_penalty, each.presence_penalty, each.frequency_penalty] for each in params]
        return cls(*torch.tensor(values, device=device).T[..., None, None])

    def apply(self, logits: Tensor, in_prompt: Tensor, num_in_answer: Tensor) -> Tensor:
        """Apply the penalties to logits (P, L, ..); `in_prompt` and `num_in_answer` broadcast against them."""
        in_answer = num_in_answer > 0
        repeated = torch.where(logits > 0, logits / self.repetition_P11, logits * self.repetition_P11)
        penalised = torch.where(in_prompt | in_answer, repeated, logits)
        return penalised - self.frequency_P11 * num_in_answer - self.presence_P11 * in_answer


def _paths(rows_P: Tensor, verified: Verified) -> Tensor:
    """Return (P, L, L): whether the token at the second position is drafted and precedes the choice at
    the first one.
    """
    length = verified.ids_BL.shape[1]
    if verified.tree is None:
        paths_PLL = torch.ones(len(rows_P), length, length, device=rows_P.device).tril() > 0
    else:
        paths_PLL = verified.tree.ancestors_BLL[rows_P].clone()
    paths_PLL[:, :, 0] = False  # the root is part of the answer already
    return paths_PLL


def _drafted_before(ids_PL: Tensor, paths_PLL: Tensor) -> Tensor:
    """Return (P, L, L): how often the token at the second position is on the path of the first one."""
    same_PLL = ids_PL[:, :, None] == ids_PL[:, None]
    return paths_PLL.float() @ same_PLL.float()


def _depths(row: int, logits_BLV: Tensor, verified: Verified | None) -> Tensor:
    """Return (L,): how many tokens of the round precede the one that each position chooses."""
    if verified is not None and verified.tree is not None:
        return verified.tree.depths_BL[row]
    return torch.arange(logits_BLV.shape[1], device=logits_BLV.device)


def _ban(logits_LV: Tensor, history: History, depths_L: Tensor) -> None:
    """Set the logits of tokens that may not be chosen at each position to minus infinity."""
    params = history.params
    num_before_L1 = (depths_L + history.num_new_tokens)[:, None]
    if params.suppress_token_ids:
        logits_LV[:, _ids(params.suppress_token_ids, logits_LV.device)] = -torch.inf
    for token_ids, until in ((params.begin_suppress_token_ids, 1), (history.stop_ids, params.min_new_tokens)):
        if token_ids and history.num_new_tokens < until:
            ids = _ids(token_ids, logits_LV.device)
            logits_LV[:, ids] = logits_LV[:, ids].masked_fill(num_before_L1 < until, -torch.inf)


def _ids(token_ids: frozenset[int], device: torch.device) -> Tensor:
    return torch.tensor(sorted(token_ids), device=device, dtype=torch.long)
