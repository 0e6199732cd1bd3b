"""The check that no tensor is in two files of a model with different values.

transformers takes a tensor from the file it reads last, whatever the index says; other engines take another one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from eda_service.errors import TargetIncompatibleError
from eda_service.storage.inputs.tensor_header import read_header
from eda_service.targets.checks.weight_files import weight_files


def require_unambiguous(model_dir: Path) -> None:
    """Check that a tensor that is in two of the files is the same in both.

    Raises:
        TargetIncompatibleError: A tensor has different values in two files.
    """
    places: dict[str, Path] = {}
    for path in weight_files(model_dir):
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
