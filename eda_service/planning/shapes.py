"""Sizes of targets for plans: published ones by name, and assumptions for the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eda_service.config.job import TargetSpec
from eda_service.drafts.draft_config import CONFIGS, DraftConfig, parse_draft_config
from eda_service.errors import InputError
from eda_service.targets.checks.checker import CHECKER
from eda_service.targets.files.resolve import is_here, is_ours, resolve_target
from eda_service.targets.files.shape import ModelShape, shape_of_target

SHAPES: dict[str, ModelShape] = {
    "135m": ModelShape(576, 1536, 30, 9, 3, 64, 49_152, 134.5e6, is_tied=True),  # SmolLM2-135M
    "1.5b": ModelShape(1536, 8960, 28, 12, 2, 128, 151_936, 1.54e9, is_tied=True),  # Qwen2.5-1.5B
    "7b": ModelShape(3584, 18_944, 28, 28, 4, 128, 152_064, 7.62e9),  # Qwen2.5-7B, the paper's
    "8b": ModelShape(4096, 14_336, 32, 32, 8, 128, 128_256, 8.03e9),  # Llama-3.1-8B
    "14b": ModelShape(5120, 13_824, 48, 40, 8, 128, 152_064, 14.8e9),  # Qwen2.5-14B
    "32b": ModelShape(5120, 27_648, 64, 40, 8, 128, 152_064, 32.8e9),  # Qwen2.5-32B
    "70b": ModelShape(8192, 28_672, 80, 64, 8, 128, 128_256, 70.6e9),  # Llama-3.1-70B
    "235b": ModelShape(  # Qwen3-235B-A22B: 128 experts of width 1536, eight for a token
        4096, 12_288, 94, 64, 4, 128, 151_936, 235e9, active_parameters=22e9
    ),
}

EMBEDDED_SHAPES = {"smollm2-135m-instruct": SHAPES["135m"]}
"""Sizes of embedded models, which are known before they are fetched."""

EAGLE3_VOCABULARY = 32_000
"""Number of tokens that the head of a published EAGLE-3 draft scores."""


def draft_of(shape: ModelShape, kind: str = "eagle1") -> DraftConfig:
    """Make the config of a draft of one layer for a target, for its size.

    Args:
        shape: Sizes of the target.
        kind: Kind of draft: eagle1, or eagle3 as its authors publish it, over an early, a middle and a late layer, with
            a head of its own over 32,000 tokens.

    Raises:
        InputError: The kind is unknown.
    """
    if kind not in CONFIGS:
        raise InputError(f"no kind of draft {kind[:32]!r}; there are {', '.join(CONFIGS)}", param="draft")
    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden_size,
        "num_heads": shape.num_heads,
        "num_kv_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "expert_width": shape.expert_width,
        "vocab_size": shape.vocab_size,
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-6,
    }
    if kind == "eagle3":
        layers = sorted({2, shape.num_layers // 2, max(2, shape.num_layers - 3)})
        sizes |= {"layers": layers, "draft_vocab_size": min(EAGLE3_VOCABULARY, shape.vocab_size)}
    return parse_draft_config({"kind": kind, **sizes})


def shape_beside(draft: DraftConfig) -> ModelShape:
    """Assume the sizes of a target whose draft is known and whose files are not here.

    Widths and vocabulary are the draft's, as they have to be; layers and weights are those of the published target with
    the closest hidden size.
    """
    like = min(SHAPES.values(), key=lambda shape: abs(shape.hidden_size - draft.target_width))
    return replace(
        like,
        hidden_size=draft.target_width,
        expert_width=draft.expert_width,
        num_heads=draft.num_heads,
        num_kv_heads=draft.num_kv_heads,
        head_dim=draft.head_dim,
        vocab_size=draft.vocab_size,
    )


def shape_of(model: str) -> ModelShape:
    """Return the sizes of a published target by name, or of a target on this machine.

    Raises:
        InputError: The name is no published size and no target.
        TargetNotFoundError: The target does not exist.
        TargetIncompatibleError: The files lack its sizes, or are not a whole model.
    """
    if model.lower() in SHAPES:
        return SHAPES[model.lower()]
    spec = TargetSpec(model=model)
    if not is_here(spec):
        raise InputError(
            f"{model!r} is no size ({', '.join(SHAPES)}) and no target on this machine; name one of them", param="model"
        )
    shape = shape_of_target(spec)
    if not is_ours(spec.model):
        CHECKER.check(resolve_target(spec), converses=True)
    return shape
