"""Checkpoints as strangers publish them, made out of a sound tiny one: each is a change of files, and what is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Path], None]
Tensors = dict[str, torch.Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"


def settings(file: str = "config.json", **values: Any) -> Change:
    """Set fields of a JSON file; `...` takes one out."""

    def change(directory: Path) -> None:
        path = directory / file
        found = json.loads(path.read_text()) if path.exists() else {}
        found |= values
        path.write_text(json.dumps({name: value for name, value in found.items() if value is not ...}))

    return change


def text(file: str, content: str | bytes) -> Change:
    """Write a file as it stands."""

    def change(directory: Path) -> None:
        path = directory / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def without(*files: str) -> Change:
    """Remove files."""

    def change(directory: Path) -> None:
        for file in files:
            (directory / file).unlink()

    return change


def tensors(change: Callable[[Tensors], Tensors], file: str = "model.safetensors") -> Change:
    """Write the weights again."""

    def write(directory: Path) -> None:
        path = directory / file
        changed = change(load_file(path))
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, path, metadata={"format": "pt"})

    return write


def both(*changes: Change) -> Change:
    """One after the other."""

    def change(directory: Path) -> None:
        for each in changes:
            each(directory)

    return change


def shards(*, without_last: bool = False) -> Change:
    """Two files and an index."""

    def write(directory: Path) -> None:
        path = directory / "model.safetensors"
        found = load_file(path)
        names = sorted(found)
        parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, part in parts.items():
            save_file({name: found[name] for name in part}, directory / file, metadata={"format": "pt"})
        places = {name: file for file, part in parts.items() for name in part}
        (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        path.unlink()
        if without_last:
            (directory / "model-00002-of-00002.safetensors").unlink()

    return write


def prefixed(prefix: str) -> Change:
    """Every tensor's name with something in front."""
    return tensors(lambda found: {f"{prefix}{name}": tensor for name, tensor in found.items()})


def quantised(method: str, **more: Any) -> Change:
    """As a quantiser marks its models."""
    return settings(quantization_config={"quant_method": method, **more})
