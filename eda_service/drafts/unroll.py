"""Unrolled drafting (HASS, arXiv 2408.15766; training-time test, EAGLE-3): the chain that decoding drafts, from every
position of a known text at once. Training uses it, and so does the comparison of a draft with given answers.

Row s is a draft that starts after the verified positions 0..s. At step j it reads the embedding of x_{s+j+1} and its
own state of step j-1 (at step 0: its start state from the target's state at s), attends to the verified keys 0..s and
to its own j later keys, and gives the state of position s+j+1. One step is EAGLE's training; more steps train the draft
on its own errors.

Shapes: B samples, S rows (starts), C width of the target's states, D hidden, N query heads, H key/value heads, G = N/H,
d head width, j step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from eda_service.drafts.draft import Draft


def unroll(
    draft: Draft,
    embed: nn.Module,
    token_ids_BL: Tensor,
    draft_in_BLC: Tensor,
    num_steps: int,
    *,
    is_started: bool = False,
) -> Iterator[Tensor]:
    """Compute the draft's states at each step.

    Args:
        draft: Draft in training form.
        embed: The target's embedding, frozen.
        token_ids_BL: Token ids of the samples.
        draft_in_BLC: The target's states that the draft reads.
        num_steps: Steps to unroll.
        is_started: Whether `draft_in_BLC` already holds the draft's start states.

    Yields:
        States of step j (B, S-j, D) with S = L-2; row s is at position s+j+1, and the head predicts the token at s+j+2
        from it.
    """
    num_rows = token_ids_BL.shape[1] - 2
    embeds_BLD = draft.embedding(embed)(token_ids_BL).to(draft_in_BLC.dtype)
    state_BSC, attend = draft_in_BLC[:, :num_rows], ChainAttention()
    state_BSD = state_BSC if is_started else draft.start(state_BSC)
    for step in range(num_steps):
        rows = num_rows - step
        if rows <= 0:
            return
        embeds_BSD = embeds_BLD[:, step + 1 : step + 1 + rows]
        positions_BS = torch.arange(step, step + rows, device=embeds_BSD.device).expand(len(embeds_BSD), rows)
        state_BSD = draft.step(embeds_BSD, state_BSD[:, :rows], positions_BS, attend)
        yield state_BSD


class ChainAttention:
    """Attention of the rows of each step to their verified positions and their own later positions."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def __call__(self, query_BNSd: Tensor, key_BHSd: Tensor, value_BHSd: Tensor) -> Tensor:
        """Store the next step's keys and values; return the attention's result (B, N, S, d)."""
        self._keys.append(key_BHSd)
        self._values.append(value_BHSd)
        return attend(query_BNSd, self._keys, self._values)


def attend(query_BNSd: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """Compute the attention of step j = len(keys) - 1: row s sees keys[0][.., :s+1] and keys[1..j][.., s]; softmax in
    float32.

    Args:
        query_BNSd: Queries of the rows.
        keys: Keys of each step (B, H, S-step, d).
        values: Values of each step, of the same shapes.

    Returns:
        The result (B, N, S, d).
    """
    batch, num_heads, rows, width = query_BNSd.shape
    num_kv_heads = keys[0].shape[1]
    query = query_BNSd.view(batch, num_kv_heads, num_heads // num_kv_heads, rows, width) * width**-0.5
    verified_k, verified_v = keys[0][:, :, None, :rows], values[0][:, :, None, :rows]
    scores = query @ verified_k.transpose(-1, -2)
    future = torch.ones(rows, rows, dtype=torch.bool, device=scores.device).triu(1)
    scores = scores.masked_fill(future, float("-inf"))
    own = [(query * key[:, :, None, :rows]).sum(-1, keepdim=True) for key in keys[1:]]
    weights = torch.softmax(torch.cat([scores, *own], dim=-1).float(), dim=-1).to(query.dtype)
    out = weights[..., :rows] @ verified_v
    for i, value in enumerate(values[1:]):
        out = out + weights[..., rows + i, None] * value[:, :, None, :rows]
    return out.reshape(batch, num_heads, rows, width)


def round_starts(accepted: Sequence[int]) -> Iterator[int]:
    """Yield the places where rounds begin as decoding produces an answer: each after the tokens accepted before it
    and the one token of the target.

    Args:
        accepted: Number of accepted tokens of a chain from each position of the answer, in order.
    """
    place = 0
    while place < len(accepted):
        yield place
        place += accepted[place] + 1


def num_rounds(accepted: Sequence[int]) -> int:
    """Rounds in which decoding walks over an answer (`round_starts`)."""
    return sum(1 for _ in round_starts(accepted))
