"""Sizes of targets: a few published ones by name, any other from its `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from eda_service.config.job import TargetSpec
from eda_service.drafts.draft_config import DraftConfig, Eagle1Config
from eda_service.errors import InputError
from eda_service.targets.checks.checker import CHECKER
from eda_service.targets.facts import facts_of
from eda_service.targets.resolve import is_here, is_ours, resolve_target

WEIGHT_BYTES = 2
FEATURE_BYTES = 2


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only target.

    Attributes:
        hidden_size: D.
        expert_width: Width of its FFN, m_s of its draft.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key/value heads.
        head_dim: Width of one head.
        vocab_size: V.
        num_parameters: Head included.
        is_tied: Whether the head is the token embedding, stored once.
    """

    hidden_size: int
    expert_width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    num_parameters: float
    is_tied: bool = False

    @property
    def weight_bytes(self) -> float:
        """In bfloat16."""
        return WEIGHT_BYTES * self.num_parameters

    @property
    def io_bytes(self) -> float:
        """Token embedding and head as they are exported for training, in bfloat16."""
        return (1.0 if self.is_tied else 2.0) * WEIGHT_BYTES * self.vocab_size * self.hidden_size

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one token in all layers, in bfloat16."""
        return 2.0 * WEIGHT_BYTES * self.num_layers * self.num_kv_heads * self.head_dim

    @property
    def draft(self) -> DraftConfig:
        """A draft of one layer of this target."""
        return Eagle1Config(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            expert_width=self.expert_width,
            vocab_size=self.vocab_size,
            rope_theta=1e4,
            rms_norm_eps=1e-6,
        )


SHAPES: dict[str, ModelShape] = {
    "135m": ModelShape(576, 1536, 30, 9, 3, 64, 49_152, 134.5e6, is_tied=True),  # SmolLM2-135M
    "1.5b": ModelShape(1536, 8960, 28, 12, 2, 128, 151_936, 1.54e9, is_tied=True),  # Qwen2.5-1.5B
    "7b": ModelShape(3584, 18_944, 28, 28, 4, 128, 152_064, 7.62e9),  # Qwen2.5-7B, the paper's
    "8b": ModelShape(4096, 14_336, 32, 32, 8, 128, 128_256, 8.03e9),  # Llama-3.1-8B
    "14b": ModelShape(5120, 13_824, 48, 40, 8, 128, 152_064, 14.8e9),  # Qwen2.5-14B
    "32b": ModelShape(5120, 27_648, 64, 40, 8, 128, 152_064, 32.8e9),  # Qwen2.5-32B
    "70b": ModelShape(8192, 28_672, 80, 64, 8, 128, 128_256, 70.6e9),  # Llama-3.1-70B
}

EMBEDDED_SHAPES = {"smollm2-135m-instruct": SHAPES["135m"]}
"""Of embedded models, which are known before they are fetched."""


def shape_beside(draft: DraftConfig) -> ModelShape:
    """The shape that a target may have whose draft is known and whose files are not here.

    Widths and vocabulary are the draft's, as they have to be; layers and weights are those of the published size whose
    hidden size is closest.
    """
    like = min(SHAPES.values(), key=lambda shape: abs(shape.hidden_size - draft.hidden_size))
    return replace(
        like,
        hidden_size=draft.hidden_size,
        expert_width=draft.expert_width,
        num_heads=draft.num_heads,
        num_kv_heads=draft.num_kv_heads,
        head_dim=draft.head_dim,
        vocab_size=draft.vocab_size,
    )


def shape_of_config(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape that a `config.json` describes, weights counted from its sizes (norms and biases left out).

    Returns:
        None where the config does not name its sizes as Llama's, Qwen's and Mistral's do.
    """
    try:
        hidden, width, layers, heads, vocab = (
            int(config[name])
            for name in (
                "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"
            )
        )  # fmt: skip
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_dim = int(config.get("head_dim") or hidden // heads)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if min(hidden, width, layers, heads, vocab, kv_heads, head_dim) < 1:
        return None
    is_tied = bool(config.get("tie_word_embeddings"))
    layer = 2 * hidden * (heads + kv_heads) * head_dim + 3 * hidden * width
    weights = layers * layer + (1 if is_tied else 2) * vocab * hidden
    return ModelShape(hidden, width, layers, heads, kv_heads, head_dim, vocab, float(weights), is_tied)


def shape_of(model: str) -> ModelShape:
    """The shape of a size by name, or of a target that is on this machine.

    Raises:
        InputError: Neither.
        TargetNotFoundError: No such target.
        TargetIncompatibleError: Its files do not name its sizes, or do not make a whole model.
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


def shape_of_target(spec: TargetSpec) -> ModelShape:
    """The shape of a target; of one on the model hub, without its weights.

    Raises:
        TargetNotFoundError: No such target, or the hub cannot be asked.
        TargetIncompatibleError: Its files do not name its sizes.
    """
    return ModelShape(**asdict(facts_of(spec)))
