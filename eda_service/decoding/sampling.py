"""Distributions and draws: temperature, min_p, top_k, nucleus, inverse-CDF sampling from given uniforms.

Randomness is passed in as uniforms, one stream per request, so a request's draws do not depend on its neighbours.

Shapes: B rows, R rows that truncate, L positions, V vocabulary, K most likely tokens; leading dimensions are
free where not named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NUCLEUS_TOP = 512


@dataclass(frozen=True)
class Truncation:
    """The rule by which tokens stay in the distributions of a batch.

    Attributes:
        top_ps_B: The top_p of each row; None where no row uses a nucleus.
        cuts: The rows that use top_k or min_p; None if no row does.
    """

    top_ps_B: Tensor | None = None
    cuts: Cuts | None = None

    @classmethod
    def of(
        cls, top_ps: Sequence[float], cuts: Mapping[int, tuple[int, float]], device: torch.device
    ) -> Truncation | None:
        """Make it from each row's top_p, and (top_k, min_p) by row where they are used; None where
        every token stays.
        """
        uses_nucleus = min(top_ps) < 1.0
        if not uses_nucleus and not cuts:
            return None
        return cls(
            torch.tensor(top_ps, device=device) if uses_nucleus else None, Cuts.of(cuts, device) if cuts else None
        )


@dataclass(frozen=True)
class Cuts:
    """Rows that keep tokens by rank and by probability relative to the most likely one.

    Attributes:
        top_ks_R: Number of most likely tokens that stay in each row; 0: all tokens.
        most_k: The largest of these numbers.
    """

    rows_R: Tensor
    top_ks_R: Tensor
    min_ps_R: Tensor
    most_k: int

    @classmethod
    def of(cls, cuts: Mapping[int, tuple[int, float]], device: torch.device) -> Cuts:
        """Make it from (top_k, min_p) by row; a top_k below 1 keeps all."""
        top_ks = [max(0, top_k) for top_k, _ in cuts.values()]
        return cls(
            torch.tensor(list(cuts), device=device),
            torch.tensor(top_ks, device=device),
            torch.tensor([min_p for _, min_p in cuts.values()], device=device),
            max(top_ks),
        )

    def apply(self, probs_BLV: Tensor) -> Tensor:
        """Remove the cut tokens from the distributions and renormalise; tokens as likely as the last of top_k stay, as
        in vLLM and transformers. Rows that cut nothing are unchanged.
        """
        probs_RLV = probs_BLV[self.rows_R]
        least_RL1 = self.min_ps_R[:, None, None] * probs_RLV.amax(-1, keepdim=True)
        num_ranked = min(self.most_k, probs_BLV.shape[-1])
        if num_ranked:
            ranked_RLK = probs_RLV.topk(num_ranked, dim=-1).values
            last_R11 = (self.top_ks_R.clamp(1, num_ranked) - 1)[:, None, None]
            kth_RL1 = ranked_RLK.gather(-1, last_R11.expand(-1, probs_BLV.shape[1], 1))
            least_RL1 = torch.where(self.top_ks_R[:, None, None] > 0, torch.maximum(least_RL1, kth_RL1), least_RL1)
        kept_RLV = torch.where(probs_RLV >= least_RL1, probs_RLV, 0.0)
        return probs_BLV.index_copy(0, self.rows_R, kept_RLV / kept_RLV.sum(-1, keepdim=True))


def distribution(
    logits_BLV: Tensor, temperatures_B: Tensor, kept: Truncation | None = None, *, any_greedy: bool = True
) -> Tensor:
    """Compute probabilities (B, L, V) in float32 after temperature and truncation (min_p, top_k, then the nucleus of
    the tokens left: vLLM's order); a row at temperature 0 is one-hot at its argmax.

    Args:
        logits_BLV: Logits, already shaped by the requests.
        temperatures_B: Temperature of each row; 0 means greedy.
        kept: Rule that tokens stay by; None keeps every token.
        any_greedy: Whether a temperature may be 0; False saves three passes over the vocabulary.
    """
    if not any_greedy:
        return _tempered(logits_BLV, temperatures_B, kept)
    greedy_B = temperatures_B == 0
    safe_B = torch.where(greedy_B, torch.ones_like(temperatures_B), temperatures_B)
    probs_BLV = _tempered(logits_BLV, safe_B, kept)
    one_hot_BLV = torch.zeros_like(probs_BLV).scatter_(-1, most_likely(logits_BLV)[..., None], 1.0)
    return torch.where(greedy_B[:, None, None], one_hot_BLV, probs_BLV)


def most_likely(logits: Tensor) -> Tensor:
    """Return the index of the largest logit (..), the first of equals; computed in float32, for which torch's CPU
    kernel is five times as fast as for bfloat16.
    """
    return logits.float().argmax(-1)


def _tempered(logits_BLV: Tensor, temperatures_B: Tensor, kept: Truncation | None) -> Tensor:
    """Compute the softmax at temperatures above 0, then remove the tokens that `kept` cuts."""
    probs_BLV = torch.softmax(logits_BLV.float() / temperatures_B[:, None, None], dim=-1)
    if kept is None:
        return probs_BLV
    if kept.cuts is not None:
        probs_BLV = kept.cuts.apply(probs_BLV)
    return probs_BLV if kept.top_ps_B is None else nucleus(probs_BLV, kept.top_ps_B[:, None, None])


def nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """Keep the fewest most likely tokens whose mass reaches top_p, renormalised; a row at top_p 1 stays as it is.

    On a CPU sorting 49k tokens costs more than a draft step, so the 512 most likely are tried first, and only rows
    whose nucleus is larger are sorted; the answer is the same.

    Args:
        probs: Probabilities (.., V).
        top_p: Mass of the nucleus; broadcasts against probs, with last dimension 1.
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
    """Compute the renormalised nucleus among the `among` most likely tokens, and its mass before renormalising."""
    values, indices = probs.topk(among, dim=-1)
    mass_before = values.cumsum(-1) - values
    kept = torch.where(mass_before < top_p, values, torch.zeros_like(values))
    mass = kept.sum(-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, indices, kept / mass), mass.squeeze(-1)


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one index per distribution by inverse CDF: the first index whose cumulative mass exceeds the uniform.

    Args:
        probs: Probabilities (.., V), which need not be exactly normalised.
        uniforms: Uniform numbers (..), in [0, 1).
    """
    cumulative = probs.cumsum(-1)
    threshold = (uniforms * cumulative[..., -1])[..., None]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp_(max=probs.shape[-1] - 1)


def is_finite(logits_BKV: Tensor) -> Tensor:
    """Return (B,) whether a row's logits are all finite, in one pass: infinities and NaN survive a sum."""
    return torch.isfinite(logits_BKV.sum(dim=(1, 2), dtype=torch.float32))
