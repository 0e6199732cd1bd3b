"""What a target's files tell without loading it: shape and number of weights. Imports no torch, for the API's sake."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from eda_service.errors import TargetIncompatibleError


@dataclass(frozen=True)
class TargetFacts:
    """Attributes: D, V, and the elements of all weights, head included."""

    hidden_size: int
    vocab_size: int
    num_parameters: int


def target_facts(model_dir: Path) -> TargetFacts:
    """Read `config.json` and the headers of the safetensors files.

    Raises:
        TargetIncompatibleError: The config does not name its sizes.
    """
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    try:
        hidden, vocab = int(config["hidden_size"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise TargetIncompatibleError(
            f"{model_dir / 'config.json'} has no whole hidden_size and vocab_size", param="target.model"
        ) from error
    return TargetFacts(hidden, vocab, count_parameters(model_dir))


def count_parameters(model_dir: Path) -> int:
    """Elements of all weights, from the headers of the safetensors files."""
    total = 0
    for path in sorted(model_dir.glob("*.safetensors")):
        with safe_open(path, framework="np") as stream:
            total += sum(math.prod(stream.get_slice(name).get_shape()) for name in stream.keys())  # noqa: SIM118
    return total
