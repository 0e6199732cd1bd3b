"""The use of the gate: its weights over a target's answers, and the acceptance with the gate held at their mean.

Shapes: N tokens, D hidden, L positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eda_service.config.job import TreeConfig
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.draft import Draft
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.drafts.unroll import unroll
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.replay import Replay, Transcript
from eda_service.export.dense import fold
from eda_service.targets.loader import Target


def private_weights(draft: Draft, embed: nn.Module, texts: list[Transcript]) -> Tensor:
    """Compute g_p at every answer token (N,), with the target's own features as the draft's input."""
    ffn = draft.ffn
    assert isinstance(ffn, SharedPrivateFFN)
    assert ffn.gate is not None
    seen: list[Tensor] = []
    handle = ffn.gate.register_forward_hook(lambda _module, _inputs, weights: seen.append(weights[..., 1]))
    found = []
    for text in texts:
        ids_1L = torch.tensor([text.token_ids])
        features_1LD = torch.cat([text.features_TD, text.features_TD[-1:]])[None]
        next(unroll(draft, embed, ids_1L, features_1LD, 1))
        found.append(seen.pop()[0, text.num_prompt_tokens :].float())
    handle.remove()
    return torch.cat(found)


@torch.inference_mode()
def gate_statistics(
    target: Target, loaded: LoadedDraft, texts: list[Transcript], tree: TreeConfig
) -> dict[str, Any] | None:
    """Compute the numbers of one pack over transcripts; None if it has no gate."""
    ffn = loaded.draft.ffn
    if not isinstance(ffn, SharedPrivateFFN) or ffn.gate is None:
        return None
    private_N = private_weights(loaded.draft, target.embed, texts)
    mean = float(private_N.mean())
    held = fold(loaded.draft, (1.0 - mean, mean))
    stats = Replay(held, target.embed, held.head(target.lm_head, loaded.vocab_W), tree=tree).run(texts)
    row = summarise("gate held", 0.0, stats, num_draft_tokens=tree.depth)
    low, high = torch.quantile(private_N, torch.tensor([0.05, 0.95])).tolist()
    return {
        "private_mean": round(mean, 4),
        "private_std": round(float(private_N.std()), 4),
        "private_5_95_percent": [round(low, 4), round(high, 4)],
        "acceptance_length_gate_held": round(row.acceptance_length, 4),
    }
