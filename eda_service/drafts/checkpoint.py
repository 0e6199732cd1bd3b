"""Drafts and packs as safetensors.

    base draft: config.json (DraftConfig), draft.safetensors
    pack:       pack.json (what was trained), pack.safetensors (the trained tensors only)

Both may carry `draft_vocab`, the int32 token ids the draft scores. Weights of drafts that were trained here are stored
in bfloat16, those of imported ones (`dialects.store`) as they came; loading casts. Never pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eda_service.config.job import Method, TrainConfig
from eda_service.drafts.dialects.names import VOCABULARY
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig, parse_draft_config
from eda_service.drafts.freezing import frozen_sha256, is_within, prepare, trained_state
from eda_service.drafts.kinds import make_draft
from eda_service.errors import ArtifactCorruptError, UnsafeCheckpointError
from eda_service.storage.inputs.tensor_header import TensorPlace, read_header

_FROZEN = "frozen_sha256"
ConfigT = TypeVar("ConfigT", bound=BaseModel)


@dataclass
class LoadedDraft:
    """A draft and the tokens it scores (None: all tokens).

    Attributes:
        trained: Names of the tensors that a pack changed; None if every tensor may differ from the base draft's.
    """

    draft: Draft
    vocab_W: Tensor | None
    trained: frozenset[str] | None = None

    @property
    def has_head_of_base(self) -> bool:
        """Whether the draft has a head of its own that no pack changed."""
        head = self.draft.places.head
        has_own = self.draft.config.own_vocab_size is not None
        return has_own and self.trained is not None and not any(is_within(name, head) for name in self.trained)


def save_base_draft(directory: Path, draft: Draft, vocab_W: Tensor | None) -> None:
    """Write a dense draft's config and weights into an existing directory."""
    tensors = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in draft.named_parameters()}
    (directory / "config.json").write_text(draft.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    save_file(_with_vocab(tensors, vocab_W), directory / "draft.safetensors")


def read_draft_vocab(directory: Path) -> Tensor | None:
    """Read the token ids (W,) that a base draft scores; None for all.

    Raises:
        ArtifactCorruptError: The file cannot be read.
    """
    path = directory / "draft.safetensors"
    try:
        if VOCABULARY not in read_header(path):
            return None
        with safe_open(path, framework="pt") as stream:
            vocab_W: Tensor = stream.get_tensor(VOCABULARY)
            return vocab_W
    except (SafetensorError, OSError, UnsafeCheckpointError) as error:
        raise ArtifactCorruptError(f"{path} cannot be read: {error}; fetch or publish it again") from error


def read_draft_config(directory: Path) -> DraftConfig:
    """Read the shape of a base draft.

    Raises:
        ArtifactCorruptError: The config cannot be read.
    """
    return _read_config(parse_draft_config, directory / "config.json")


def load_base_draft(directory: Path, *, dtype: torch.dtype) -> LoadedDraft:
    """Read a base draft.

    Raises:
        ArtifactCorruptError: The file cannot be read or its tensors do not fit its config.
    """
    config, path = read_draft_config(directory), directory / "draft.safetensors"
    tensors, vocab_W = _read(path)
    with torch.device("meta"):  # a large draft gets no fresh weights in memory that would be overwritten at once
        draft = make_draft(config)
    _require_fit({name: p.shape for name, p in draft.named_parameters()}, tensors, path)
    for name in list(tensors):  # one by one, each as a copy: a memory map would be lost with its file
        module_name, _, leaf = name.rpartition(".")
        value = tensors.pop(name).to(dtype, copy=True)
        setattr(draft.get_submodule(module_name), leaf, nn.Parameter(value))
    return LoadedDraft(draft, vocab_W)


def load_start(directory: Path, *, dtype: torch.dtype, device: torch.device) -> Draft:
    """Load only the part of a base draft that `Draft.start` uses; the other tensors are not in memory.

    Raises:
        ArtifactCorruptError: The file cannot be read or its tensors do not fit its config.
    """
    config, path = read_draft_config(directory), directory / "draft.safetensors"
    with torch.device("meta"):
        draft = make_draft(config)
    try:
        with safe_open(path, framework="pt") as stream:
            places = {name: place for name, place in read_header(path).items() if name != VOCABULARY}
            _require_fit({name: p.shape for name, p in draft.named_parameters()}, places, path)
            for name in places:
                if is_within(name, draft.places.fuse):
                    module_name, _, leaf = name.rpartition(".")
                    value = stream.get_tensor(name).to(device, dtype, copy=True)
                    setattr(draft.get_submodule(module_name), leaf, nn.Parameter(value, requires_grad=False))
    except (SafetensorError, OSError, UnsafeCheckpointError) as error:
        raise ArtifactCorruptError(f"{path} cannot be read: {error}; fetch or publish it again") from error
    return draft.eval()


def save_pack(directory: Path, draft: Draft, train: TrainConfig, vocab_W: Tensor | None) -> None:
    """Write the trained tensors, and how to rebuild their place, into an existing directory."""
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in trained_state(draft).items()}
    (directory / "pack.json").write_text(json.dumps(train.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    metadata = {_FROZEN: frozen_sha256(draft, torch.bfloat16)}
    save_file(_with_vocab(tensors, vocab_W), directory / "pack.safetensors", metadata=metadata)


def load_pack(base_dir: Path, pack_dir: Path, *, dtype: torch.dtype) -> LoadedDraft:
    """Load a base draft with a pack applied, LoRA merged, without gradients.

    Raises:
        ArtifactCorruptError: A tensor of the pack is missing, unknown or of another shape, or the pack was trained
            beside another base draft.
    """
    loaded = load_base_draft(base_dir, dtype=torch.float32)
    train = _read_config(TrainConfig.model_validate_json, pack_dir / "pack.json")
    tensors, vocab_W = _read(pack_dir / "pack.safetensors")
    draft = prepare(loaded.draft, train, seed=0)
    _fill(draft, tensors, pack_dir / "pack.safetensors")
    _check_base(draft, base_dir, pack_dir)
    if train.method is Method.LORA:
        _merge_lora(draft)
    draft.requires_grad_(False)
    trained = None if train.method is Method.LORA else frozenset(tensors)
    return LoadedDraft(draft.to(dtype), vocab_W if vocab_W is not None else loaded.vocab_W, trained)


def _check_base(draft: Draft, base_dir: Path, pack_dir: Path) -> None:
    """Compare the frozen weights: a private expert is useless beside another shared expert than it was trained with."""
    with safe_open(pack_dir / "pack.safetensors", framework="pt") as stream:
        wanted = (stream.metadata() or {}).get(_FROZEN)
    if wanted is not None and wanted != frozen_sha256(draft, torch.bfloat16):
        raise ArtifactCorruptError(
            f"the pack in {pack_dir} was trained beside another base draft than {base_dir}; "
            "load it with the base draft its manifest names, or adapt again"
        )


def for_inference(loaded: LoadedDraft) -> LoadedDraft:
    """Freeze a draft for decoding; a proposer packs copies of the weights (`decoding.fused`)."""
    loaded.draft.requires_grad_(False)
    loaded.draft.eval()
    return loaded


def _with_vocab(tensors: dict[str, Tensor], vocab_W: Tensor | None) -> dict[str, Tensor]:
    return tensors if vocab_W is None else {**tensors, VOCABULARY: vocab_W.to(torch.int32).contiguous()}


def _read_config(parse: Callable[[str], ConfigT], path: Path) -> ConfigT:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArtifactCorruptError(f"{path} cannot be read: {error}; fetch or publish it again") from error


def _read(path: Path) -> tuple[dict[str, Tensor], Tensor | None]:
    try:
        read_header(path)
        tensors = load_file(path)
    except (SafetensorError, OSError, UnsafeCheckpointError) as error:
        raise ArtifactCorruptError(
            f"{path} cannot be read as safetensors: {error}; fetch or publish it again"
        ) from error
    vocab_W = tensors.pop(VOCABULARY, None)
    return tensors, vocab_W


def _fill(draft: Draft, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into the trained parameters and refuse any mismatch."""
    wanted = {name: p for name, p in draft.named_parameters() if p.requires_grad}
    _require_fit({name: p.shape for name, p in wanted.items()}, tensors, path)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])


def _require_fit(
    wanted: Mapping[str, torch.Size], tensors: Mapping[str, Tensor] | Mapping[str, TensorPlace], path: Path
) -> None:
    """Refuse tensors whose names or shapes differ from the wanted ones."""
    if wanted.keys() != tensors.keys():
        missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
        raise ArtifactCorruptError(
            f"{path}: missing tensors {missing}, unknown tensors {unknown}; publish the pack again"
        )
    for name, shape in wanted.items():
        if tuple(shape) != tuple(tensors[name].shape):
            raise ArtifactCorruptError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, the draft needs {tuple(shape)}"
            )


def _merge_lora(draft: Draft) -> None:
    """Merge low-rank updates into their linear layers and put the plain layers back."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(draft.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent_name, _, leaf = name.rpartition(".")
            setattr(draft.get_submodule(parent_name) if parent_name else draft, leaf, module.get_base_layer())
