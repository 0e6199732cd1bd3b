"""Folding of a gated draft into a dense one: the gate becomes a constant.

With constant gate weights (g_s, g_p), the shared-private FFN is exactly one SwiGLU of width m_s + m_p: gate and up rows
stacked, down columns scaled and stacked. A learned gate that depends on its input is approximated; the target verifies
every token, so only acceptance changes, never the output.

Shapes: D hidden, F width of all experts together.
"""

from __future__ import annotations

import copy

import torch

from eda_service.drafts.draft import Draft
from eda_service.drafts.expert import Expert
from eda_service.drafts.shared_private import SharedPrivateFFN


def is_gated(draft: Draft) -> bool:
    """Whether the experts' weights depend on the input, so that folding approximates."""
    ffn = draft.ffn
    return isinstance(ffn, SharedPrivateFFN) and ffn.gate is not None


def fold(draft: Draft, gate_weights: tuple[float, float]) -> Draft:
    """Fold the shared and the private expert under constant gate weights into one expert.

    Args:
        draft: Draft with LoRA merged; it is not changed.
        gate_weights: Weights (g_s, g_p); (1, 1) for a sum. They are ignored without a private expert.

    Returns:
        A new draft without gradients, in the draft's dtype.
    """
    ffn = draft.ffn
    if not isinstance(ffn, SharedPrivateFFN):
        return copy.deepcopy(draft).requires_grad_(False)
    width, weight = ffn.shared.width + ffn.private.width, ffn.shared.down_proj.weight
    expert = Expert(draft.config.hidden_size, width).to(weight.device, weight.dtype)
    folded = copy.deepcopy(draft)
    folded.config, folded.private = draft.config.model_copy(update={"expert_width": width}), None
    folded.set_submodule(folded.places.ffn, expert)
    scales = [ffn.scale * weight for weight in gate_weights]
    downs = [scale * each.down_proj.weight for scale, each in zip(scales, (ffn.shared, ffn.private), strict=True)]
    with torch.no_grad():
        expert.gate_proj.weight.copy_(torch.cat([ffn.shared.gate_proj.weight, ffn.private.gate_proj.weight]))
        expert.up_proj.weight.copy_(torch.cat([ffn.shared.up_proj.weight, ffn.private.up_proj.weight]))
        expert.down_proj.weight.copy_(torch.cat(downs, dim=1))
    return folded.requires_grad_(False)
