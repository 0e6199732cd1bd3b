"""States by request, joined from the pieces of vLLM's forwards, and passed from vLLM's workers to the caller by file.

Shapes: T tokens of a request, C width of the kept states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def joined(pieces: Mapping[str, Sequence[tuple[int, Tensor]]]) -> dict[str, Tensor]:
    """Join the pieces (first position, states) of each request into one tensor (T, C).

    A request that vLLM preempted and resumed has its first positions twice; the later ones are used, and they are
    equal.
    """
    found: dict[str, Tensor] = {}
    for request, parts in pieces.items():
        if _is_in_order(parts):
            found[request] = torch.cat([states for _, states in parts])
            continue
        first = parts[0][1]
        whole_TC = first.new_zeros(max(start + len(states) for start, states in parts), first.shape[1])
        for start, states in parts:
            whole_TC[start : start + len(states)] = states
        found[request] = whole_TC
    return found


def _is_in_order(parts: Sequence[tuple[int, Tensor]]) -> bool:
    at = 0
    for start, states in parts:
        if start != at:
            return False
        at += len(states)
    return True


def save_blocks(blocks: Mapping[str, Tensor], path: str) -> None:
    """Write states for another process."""
    save_file(dict(blocks), path)


def load_blocks(path: Path) -> dict[str, Tensor]:
    """Read the states that a worker has written, and delete the file; empty if the worker had none."""
    if not path.exists():
        return {}
    found: dict[str, Tensor] = load_file(path)
    path.unlink()
    return found
