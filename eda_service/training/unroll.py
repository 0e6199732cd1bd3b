"""Unrolled drafting during training (HASS, arXiv 2408.15766; training-time test, EAGLE-3): the chain as decoding runs
it.

Row s is a draft that starts after the verified positions 0..s. At step j it reads the embedding of x_{s+j+1} and its
own feature of step j-1 (at step 0: the target's h_s), attends to the verified keys 0..s and to its own j later keys,
and gives the feature of position s+j+1. One step is EAGLE's training; more steps teach the draft to live with its own
errors.

Shapes: B samples, S rows (starts), D hidden, N query heads, H key/value heads, G = N/H, d head width, j step.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from eda_service.drafts.draft import Draft


def unroll(
    draft: Draft, embed: nn.Module, token_ids_BL: Tensor, features_BLD: Tensor, num_steps: int
) -> Iterator[Tensor]:
    """Features the draft gives at each step.

    Args:
        draft: Draft in training form.
        embed: The target's embedding, frozen.
        token_ids_BL: Samples.
        features_BLD: The target's features.
        num_steps: Steps to unroll.

    Yields:
        For step j: (B, S-j, D) with S = L-2; row s predicts the feature of position s+j+1 and, through the head, the
        token at s+j+2.
    """
    num_rows = token_ids_BL.shape[1] - 2
    embeds_BLD = embed(token_ids_BL).to(features_BLD.dtype)
    layer, previous = draft.layer, features_BLD[:, :num_rows]
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for step in range(num_steps):
        rows = num_rows - step
        if rows <= 0:
            return
        x_BSD = draft.fuse(embeds_BLD[:, step + 1 : step + 1 + rows], previous[:, :rows])
        positions_BS = torch.arange(step, step + rows, device=x_BSD.device).expand(x_BSD.shape[0], rows)
        query, key, value = layer.self_attn.project(x_BSD, positions_BS)
        keys.append(key)
        values.append(value)
        previous = layer.finish(x_BSD, attend(query, keys, values))
        yield previous


def attend(query_BNSd: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """Attention of step j = len(keys) - 1: row s sees keys[0][.., :s+1] and keys[1..j][.., s]; softmax in float32.

    Args:
        query_BNSd: Queries of the rows.
        keys: Per step (B, H, S-step, d).
        values: As keys.

    Returns:
        (B, N, S, d).
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
