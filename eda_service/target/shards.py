"""Which safetensors files hold a model, and that no tensor stands in two of them with different values.

transformers reads `model.safetensors`, or else every file that `model.safetensors.index.json` names, and takes a tensor
from whichever it reads last, whatever the index says; other engines take another one.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from eda_service.artifacts.tensor_header import read_header
from eda_service.errors import TargetIncompatibleError

_INDEX = "model.safetensors.index.json"


def weight_files(model_dir: Path) -> list[Path]:
    """The files of a directory that transformers reads, in order."""
    single, index = model_dir / "model.safetensors", model_dir / _INDEX
    if single.exists() or not index.exists():
        return [single] if single.exists() else []
    names = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
    return [model_dir / str(name) for name in sorted(names)]


def require_unambiguous(model_dir: Path) -> None:
    """Check that a tensor that two of the files hold is the same in both.

    Raises:
        TargetIncompatibleError: It is not.
    """
    places: dict[str, Path] = {}
    for path in weight_files(model_dir):
        if not path.is_file():
            continue  # transformers says which one is missing
        for name in read_header(path, param="target.model"):
            first = places.setdefault(name, path)
            if first != path and not _is_equal(name, first, path):
                raise TargetIncompatibleError(
                    f"{name} stands in {first.name} and in {path.name} with different values, so {model_dir} is not "
                    "one model; save the checkpoint again",
                    param="target.model",
                )


def _is_equal(name: str, first: Path, second: Path) -> bool:
    with safe_open(first, framework="pt") as one, safe_open(second, framework="pt") as other:
        return torch.equal(one.get_tensor(name), other.get_tensor(name))
