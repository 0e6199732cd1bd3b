"""The parts of a draft that belong to a pack, and the parts that all packs over it share.

In an export of several packs the own parts of each have names `packs.<number>.` with their name in the draft's
feed-forward module, or `fc.weight`; `vocabularies` holds the rows of the head that the base draft (row 0) and each pack
score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from eda_service.drafts.dialects import names
from eda_service.drafts.freezing import is_within
from eda_service.export.files.eda_config import EdaConfig, PackPlaces

VOCABULARIES = "vocabularies"
_PREFIX = "packs."
_FFN = "layers.0.mlp."
_OF_PACK = (f"{_FFN}private", f"{_FFN}gate")
_OF_VOCABULARY = (names.D2T, names.T2D, names.HEAD, VOCABULARIES)


def is_of_packs(name: str) -> bool:
    """Whether a tensor of an export belongs to one of its packs."""
    return name.startswith(_PREFIX) or name == VOCABULARIES


def beside_packs(name: str) -> str:
    """Return the name of a base draft's tensor in an export with packs: its feed-forward module is their
    shared expert.
    """
    return name.replace(_FFN, f"{_FFN}shared.")


def own_parts(tensors: Mapping[str, Tensor], *, with_fuse: bool) -> dict[str, Tensor]:
    """Select a pack's own tensors from its whole draft's, by their short names.

    Args:
        tensors: Tensors by their names here.
        with_fuse: Whether fc is a part of the pack too.
    """
    own = {name.removeprefix(_FFN): tensor for name, tensor in tensors.items() if is_within(name, _OF_PACK)}
    return own | ({names.FC: tensors[names.FC]} if with_fuse else {})


def in_export(number: int, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a pack's own tensors to their names in an export of several."""
    return {f"{_PREFIX}{number}.{name}": tensor for name, tensor in parts.items()}


def from_export(number: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select a pack's own tensors from an export of several, by their short names."""
    prefix = f"{_PREFIX}{number}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def shared_sha256(tensors: Mapping[str, Tensor], *, has_fuse: bool, has_vocabulary: bool) -> str:
    """Hash the tensors that a draft shares with every pack over the same base: all but the packs' own parts.

    Args:
        tensors: Tensors of a base draft's or one pack's export, by their names here.
        has_fuse: Whether packs have an fc of their own.
        has_vocabulary: Whether packs have draft vocabularies of their own.
    """
    digest = hashlib.sha256()
    left_out = (*_OF_PACK, *([names.FC] if has_fuse else []), *(_OF_VOCABULARY if has_vocabulary else ()))
    named = {name.replace(f"{_FFN}shared.", _FFN): tensor for name, tensor in tensors.items()}
    for name in sorted(named):
        if not is_within(name, left_out) and not is_of_packs(name):
            digest.update(name.encode())
            digest.update(named[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def pack_shapes(eda: EdaConfig, places: PackPlaces) -> dict[str, tuple[int, ...]]:
    """Compute the names and shapes of the tensors that an export's packs add to it."""
    made: dict[str, tuple[int, ...]] = {}
    hidden = eda.draft.hidden_size
    for number, pack in enumerate(eda.packs or ()):
        width = pack.private.private_width
        shapes: dict[str, tuple[int, ...]] = {
            "private.gate_proj.weight": (width, hidden),
            "private.up_proj.weight": (width, hidden),
            "private.down_proj.weight": (hidden, width),
        }
        if pack.private.mix == "softmax":
            shapes["gate.proj.weight"] = (2, hidden)
        if places.has_fuse:
            shapes[names.FC] = (hidden, hidden + eda.draft.feature_width)
        made |= {f"{_PREFIX}{number}.{name}": shape for name, shape in shapes.items()}
    if places.has_vocabulary:
        rows = eda.draft.vocab_size if eda.draft_vocab_size is None else eda.draft_vocab_size
        made[VOCABULARIES] = (1 + len(eda.packs or ()), rows)
    return made
