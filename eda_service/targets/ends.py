"""A target without its layers: metadata, and the two matrices (embedding and head) that drafts share with it.

Shapes: D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eda_service.config.job import TargetSpec
from eda_service.records import TargetFingerprint
from eda_service.targets.decoder.packed import native_bfloat16
from eda_service.targets.files.generation_defaults import NO_DEFAULTS, GenerationDefaults
from eda_service.targets.head import LmHead


@dataclass(kw_only=True)
class TargetEnds:
    """The parts of a target that are needed outside of decoding.

    Attributes:
        lm_head: Head of the target, of which a draft vocabulary selects rows.
        embed: Token embedding module.
        stop_token_ids: Token ids that end an answer.
        max_context: Number of positions that the model was built for.
        notes: Notes for the target's user, as sentences.
        defaults: Values of its generation_config.json for answers.
    """

    spec: TargetSpec
    fingerprint: TargetFingerprint
    tokenizer: Any
    config: Any
    lm_head: LmHead
    embed: nn.Module
    stop_token_ids: frozenset[int]
    max_context: int
    dtype: torch.dtype
    device: torch.device
    notes: tuple[str, ...] = ()
    defaults: GenerationDefaults = NO_DEFAULTS

    @property
    def head_weight(self) -> Tensor:
        """The rows of the head (V, D)."""
        return self.lm_head.rows_VD

    @property
    def vocab_size(self) -> int:
        """Number of ids that have both an embedding and a logit; a tokenizer or a config may have more."""
        weight = self.embed.weight
        assert isinstance(weight, Tensor)
        return min(weight.shape[0], self.lm_head.vocab_size)


def choose_dtype(spec: TargetSpec, device: torch.device) -> torch.dtype:
    """Choose the dtype; `auto` is bfloat16 if the hardware multiplies it, else float32 (ADR 0003)."""
    if spec.dtype != "auto":
        return torch.float32 if spec.dtype == "float32" else torch.bfloat16
    return torch.bfloat16 if device.type != "cpu" or native_bfloat16() else torch.float32


def max_context_of(config: Any) -> int:
    """Return the number of positions that the model was built for.

    YaRN multiplies the original length if the config left `max_position_embeddings` at it. LongRoPE takes other factors
    once any row of a batch is longer than the original length, which would make an answer depend on its neighbours; so
    its context ends there.
    """
    limit = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    original = int(rope.get("original_max_position_embeddings") or limit)
    if rope.get("rope_type") == "longrope":
        return min(limit, original)
    if rope.get("rope_type") == "yarn" and limit == original:
        return int(original * float(rope.get("factor") or 1.0))
    return limit


def context_note(config: Any) -> tuple[str, ...]:
    context = max_context_of(config)
    if context >= int(config.max_position_embeddings):
        return ()
    return (
        f"the context ends at {context} of {config.max_position_embeddings} positions: beyond its original length "
        "LongRoPE rotates every row of a batch by the longest one, so answers would depend on their neighbours; serve "
        "longer prompts on vLLM",
    )
