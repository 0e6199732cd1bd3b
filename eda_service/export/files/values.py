"""The values in an export's file: unchanged tensors of the base draft keep exactly the stored bytes.

An imported draft keeps its dtypes. A tensor that a pack changed is written in the dtype of the base draft's tensor; a
tensor that the base draft does not have, in the dtype of its feed-forward module.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eda_service.drafts.draft import Draft
from eda_service.errors import ArtifactCorruptError


def stored_tensors(base_dir: Path) -> dict[str, Tensor]:
    """Load the tensors of a registered base draft, by name, as they are stored.

    Raises:
        ArtifactCorruptError: The tensors cannot be read.
    """
    path = base_dir / "draft.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactCorruptError(f"{path} cannot be read: {error}; fetch or import it again") from error


def file_tensors(draft: Draft, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the draft's tensors as a file holds them.

    Args:
        draft: Draft in float32: a base draft, or one with a pack, folded or not.
        stored: Stored tensors of its base draft.
    """
    return {
        name: _as_stored(parameter.detach().cpu(), name, draft, stored) for name, parameter in draft.named_parameters()
    }


def _as_stored(value: Tensor, name: str, draft: Draft, stored: Mapping[str, Tensor]) -> Tensor:
    shared = f"{draft.places.ffn}.shared."
    base = stored.get(name.replace(shared, f"{draft.places.ffn}."))
    if base is not None and base.shape == value.shape and torch.equal(base.to(value.dtype), value):
        return base.contiguous()
    if base is None:
        base = stored[f"{draft.places.ffn}.down_proj.weight"]
    return value.to(base.dtype).contiguous()


def widest(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype that can represent every number of the tensors."""
    found: torch.dtype | None = None
    for tensor in tensors.values():
        if tensor.is_floating_point():
            found = tensor.dtype if found is None else torch.promote_types(found, tensor.dtype)
    return found or torch.bfloat16
