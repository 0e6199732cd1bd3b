"""Distributions and draws: temperature, nucleus, inverse-CDF sampling from given uniforms.

Randomness is passed in as uniforms, one stream per request, so a request's draws do not depend on its neighbours.

Shapes: B rows, L positions, V vocabulary; leading dimensions are free where not named.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NUCLEUS_TOP = 512


def distribution(
    logits_BLV: Tensor, temperatures_B: Tensor, top_ps_B: Tensor | None = None, *, any_greedy: bool = True
) -> Tensor:
    """Probabilities (B, L, V) in float32 after temperature and nucleus; a row at temperature 0 is one-hot at its
    argmax.

    Args:
        logits_BLV: Raw logits.
        temperatures_B: 0 means greedy.
        top_ps_B: None where no row uses a nucleus.
        any_greedy: False when the caller knows that no temperature is 0: three passes over the vocabulary less.
    """
    if not any_greedy:
        return _tempered(logits_BLV, temperatures_B, top_ps_B)
    greedy_B = temperatures_B == 0
    safe_B = torch.where(greedy_B, torch.ones_like(temperatures_B), temperatures_B)
    probs_BLV = _tempered(logits_BLV, safe_B, top_ps_B)
    one_hot_BLV = torch.zeros_like(probs_BLV).scatter_(-1, most_likely(logits_BLV)[..., None], 1.0)
    return torch.where(greedy_B[:, None, None], one_hot_BLV, probs_BLV)


def most_likely(logits: Tensor) -> Tensor:
    """Index of the largest logit (..), the first of equals; through float32, for which torch's CPU kernel is five times
    as fast as for bfloat16.
    """
    return logits.float().argmax(-1)


def _tempered(logits_BLV: Tensor, temperatures_B: Tensor, top_ps_B: Tensor | None) -> Tensor:
    """Softmax at temperatures above 0, then the nucleus."""
    probs_BLV = torch.softmax(logits_BLV.float() / temperatures_B[:, None, None], dim=-1)
    return probs_BLV if top_ps_B is None else nucleus(probs_BLV, top_ps_B[:, None, None])


def nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """Keep the fewest most likely tokens whose mass reaches top_p, renormalised; a row at top_p 1 stays as it is.

    On a CPU sorting 49k tokens costs more than a draft step, so the 512 most likely are tried first, and only rows
    whose nucleus is larger are sorted; the answer is the same.

    Args:
        probs: (.., V).
        top_p: Broadcasts against probs, with last dimension 1.
    """
    if probs.device.type != "cpu" or probs.shape[-1] <= _NUCLEUS_TOP:
        return torch.where(top_p >= 1, probs, _keep_nucleus(probs, top_p, probs.shape[-1])[0])
    flat_NV = probs.flatten(0, -2)
    flat_top_N1 = top_p.expand(*probs.shape[:-1], 1).flatten(0, -2)
    kept_NV, mass_N = _keep_nucleus(flat_NV, flat_top_N1, _NUCLEUS_TOP)
    whole_N = flat_top_N1.squeeze(-1) >= 1
    wide_N = (mass_N < flat_top_N1.squeeze(-1)) & ~whole_N
    if bool(wide_N.any()):
        kept_NV[wide_N] = _keep_nucleus(flat_NV[wide_N], flat_top_N1[wide_N], probs.shape[-1])[0]
    if bool(whole_N.any()):
        kept_NV[whole_N] = flat_NV[whole_N]
    return kept_NV.view_as(probs)


def _keep_nucleus(probs: Tensor, top_p: Tensor, among: int) -> tuple[Tensor, Tensor]:
    """Renormalised nucleus among the `among` most likely tokens, and its mass before that."""
    values, indices = probs.topk(among, dim=-1)
    mass_before = values.cumsum(-1) - values
    kept = torch.where(mass_before < top_p, values, torch.zeros_like(values))
    mass = kept.sum(-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, indices, kept / mass), mass.squeeze(-1)


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """One index per distribution by inverse CDF: the first index whose cumulative mass exceeds the uniform.

    Args:
        probs: (.., V), need not be exactly normalised.
        uniforms: (..), in [0, 1).
    """
    cumulative = probs.cumsum(-1)
    threshold = (uniforms * cumulative[..., -1])[..., None]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp_(max=probs.shape[-1] - 1)


def is_finite(logits_BKV: Tensor) -> Tensor:
    """(B,) whether a row's logits are all finite, in one pass: infinities and NaN survive a sum."""
    return torch.isfinite(logits_BKV.sum(dim=(1, 2), dtype=torch.float32))
