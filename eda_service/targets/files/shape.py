"""The sizes of a target, from its files or from the hub, without loading it. Imports no torch, so that the API can
import it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eda_service.config.job import TargetSpec
from eda_service.errors import TargetIncompatibleError
from eda_service.storage.inputs import bounded_json
from eda_service.targets.checks.weight_files import weight_headers
from eda_service.targets.files.resolve import HUB_TIMEOUT_S, hub_error, is_here, resolve_target

WEIGHT_BYTES = 2
FEATURE_BYTES = 2
LOADING = 1.25
"""Memory of loading a target into the project's own engine divided by that of its weights: the packed head is a copy,
and so is one layer at a time.
"""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder-only target.

    Attributes:
        hidden_size: Hidden width D.
        expert_width: Width of its FFN, which is m_s of its draft.
        num_layers: Number of decoder layers.
        num_heads: Number of query heads.
        num_kv_heads: Number of key/value heads.
        head_dim: Width of one head.
        vocab_size: Size of the vocabulary V.
        num_parameters: Number of elements of all weights, head included.
        is_tied: Whether the head is the token embedding, stored once.
        active_parameters: Number of elements that one token is multiplied with, if a router chooses among experts;
            None: all.
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
    active_parameters: float | None = None

    @property
    def multiplied_parameters(self) -> float:
        """Number of elements that one token is multiplied with."""
        return self.num_parameters if self.active_parameters is None else self.active_parameters

    def read_parameters(self, rows: float) -> float:
        """Return the largest number of elements that a forward of some rows reads: each row may be sent to other
        experts.
        """
        return min(self.num_parameters, max(1.0, rows) * self.multiplied_parameters)

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights in bfloat16."""
        return WEIGHT_BYTES * self.num_parameters

    @property
    def io_bytes(self) -> float:
        """Bytes of token embedding and head as exported for training, in bfloat16."""
        return (1.0 if self.is_tied else 2.0) * WEIGHT_BYTES * self.vocab_size * self.hidden_size

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values of one token in all layers, in bfloat16."""
        return 2.0 * WEIGHT_BYTES * self.num_layers * self.num_kv_heads * self.head_dim


def head_dim_of(config: Any) -> int:
    """Return the width of one attention head; if the config does not name it, hidden size divided by number of heads.

    Args:
        config: The target's config, as transformers reads it or as a mapping.

    Raises:
        AttributeError, KeyError: The config has neither the width nor the sizes to divide.
    """
    if isinstance(config, Mapping):
        return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def shape_of_target(spec: TargetSpec) -> ModelShape:
    """Read the shape of a target; for one on the model hub, its config and the headers of its files are fetched, not
    its weights.

    Raises:
        TargetNotFoundError: The target does not exist, or the hub cannot be asked.
        TargetIncompatibleError: The config lacks a size.
    """
    if not is_here(spec):
        return _on_hub(spec.model, spec.revision)
    model_dir = resolve_target(spec).model_dir
    return _in_file(model_dir / "config.json", count_parameters(model_dir))


def shape_of_config(config: Mapping[str, Any], num_parameters: int | None = None) -> ModelShape:
    """Compute the shape that a `config.json` describes.

    Args:
        config: Config of the target.
        num_parameters: Number of elements of all weights; None: computed from the sizes (norms and biases left out).

    Raises:
        ValueError: The config does not name its sizes as Llama's, Qwen's and Mistral's do.
    """
    try:
        hidden, width, layers, heads, vocab = (
            int(config[name])
            for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        )
        kv_heads, head_dim = int(config.get("num_key_value_heads") or heads), head_dim_of(config)
        experts = _experts(config, hidden, width)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if min(hidden, width, layers, heads, vocab, kv_heads, head_dim) < 1:
        raise ValueError("a size is below 1")
    is_tied = bool(config.get("tie_word_embeddings"))
    if num_parameters is None:
        layer = 2 * hidden * (heads + kv_heads) * head_dim + (experts.all if experts else 3 * hidden * width)
        num_parameters = layers * layer + (1 if is_tied else 2) * vocab * hidden
    active = None if experts is None else float(num_parameters - layers * experts.idle)
    return ModelShape(hidden, width, layers, heads, kv_heads, head_dim, vocab, float(num_parameters), is_tied, active)


@dataclass(frozen=True)
class _Experts:
    """Numbers of elements of a layer's experts: all of them, and those that a token does not use."""

    all: int
    idle: int


def _experts(config: Mapping[str, Any], hidden: int, width: int) -> _Experts | None:
    """Compute the experts' sizes of a mixture of experts, as Qwen's and Mixtral's configs name them; None if there are
    none.

    Raises:
        TypeError, ValueError: A size is not a number.
    """
    count = int(config.get("num_experts") or config.get("num_local_experts") or 0)
    if count < 2:
        return None
    one = 3 * hidden * int(config.get("moe_intermediate_size") or width)
    return _Experts(count * one, max(0, count - int(config.get("num_experts_per_tok") or count)) * one)


def count_parameters(model_dir: Path) -> int:
    """Count the elements of all weights, from the headers of the safetensors files."""
    return sum(math.prod(place.shape) for place in weight_headers(model_dir).values())


def _on_hub(name: str, revision: str | None) -> ModelShape:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError

    try:
        path = Path(hf_hub_download(name, "config.json", revision=revision, etag_timeout=HUB_TIMEOUT_S))
        counts = HfApi().get_safetensors_metadata(name, revision=revision).parameter_count
    except (HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError, OSError, ValueError) as error:
        raise hub_error(name, error, param="target.model") from error
    return _in_file(path, sum(counts.values()))


def _in_file(path: Path, num_parameters: int) -> ModelShape:
    try:
        return shape_of_config(bounded_json.read_object(path), num_parameters)
    except (ValueError, OSError) as error:
        raise TargetIncompatibleError(
            f"{path} does not name its sizes ({error}); name a decoder-only target of the Llama, Qwen or Mistral kind",
            param="target.model",
        ) from error
