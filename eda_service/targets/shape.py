"""What a target's files tell without loading it: shape and number of weights. Imports no torch, for the API's sake."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from eda_service.config.job import TargetSpec
from eda_service.errors import TargetIncompatibleError
from eda_service.storage import bounded_json
from eda_service.targets.checks.weight_files import weight_headers
from eda_service.targets.generation_defaults import read_generation_defaults
from eda_service.targets.resolve import HUB_TIMEOUT_S, hub_error, is_here, resolve_target


@dataclass(frozen=True)
class TargetFacts:
    """The sizes of a decoder-only target.

    Attributes:
        hidden_size: D.
        expert_width: Width of its FFN.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key/value heads.
        head_dim: Width of one head.
        vocab_size: V.
        num_parameters: Elements of all weights, head included.
        is_tied: Whether the head is the token embedding, as the config says.
    """

    hidden_size: int
    expert_width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    num_parameters: int
    is_tied: bool


def facts_of(spec: TargetSpec) -> TargetFacts:
    """What is known of a target; of one on the model hub, its config and the headers of its files are fetched, not its
    weights.

    Raises:
        TargetNotFoundError: No such target, or the hub cannot be asked.
        TargetIncompatibleError: The config does not name its sizes, or the generation config of a target that is here
            asks for what is not computed.
    """
    if not is_here(spec):
        return _hub_facts(spec.model, spec.revision)
    model_dir = resolve_target(spec).model_dir
    read_generation_defaults(model_dir)
    return target_facts(model_dir)


def target_facts(model_dir: Path) -> TargetFacts:
    """Read `config.json` and the headers of the safetensors files.

    Raises:
        TargetIncompatibleError: The config does not name its sizes.
    """
    return _facts(model_dir / "config.json", count_parameters(model_dir))


def _hub_facts(name: str, revision: str | None) -> TargetFacts:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError

    try:
        path = Path(hf_hub_download(name, "config.json", revision=revision, etag_timeout=HUB_TIMEOUT_S))
        counts = HfApi().get_safetensors_metadata(name, revision=revision).parameter_count
    except (HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError, OSError, ValueError) as error:
        raise hub_error(name, error, param="target.model") from error
    return _facts(path, sum(counts.values()))


def _facts(path: Path, num_parameters: int) -> TargetFacts:
    try:
        config = bounded_json.read_object(path)
        heads = int(config["num_attention_heads"])
        return TargetFacts(
            hidden_size=int(config["hidden_size"]),
            expert_width=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocab_size=int(config["vocab_size"]),
            num_parameters=num_parameters,
            is_tied=bool(config.get("tie_word_embeddings")),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OSError) as error:
        raise TargetIncompatibleError(
            f"{path} does not name its sizes ({type(error).__name__}: {error}); name a decoder-only target of the "
            "Llama, Qwen or Mistral kind",
            param="target.model",
        ) from error


def count_parameters(model_dir: Path) -> int:
    """Elements of all weights, from the headers of the safetensors files."""
    return sum(math.prod(place.shape) for place in weight_headers(model_dir).values())
