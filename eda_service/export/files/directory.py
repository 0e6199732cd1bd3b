"""An export on disk: written, read back and compared before it is published.

config.json, model.safetensors and, for SGLang with a draft vocabulary, token_map.pt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.dialects.names import canonical_name
from eda_service.drafts.kinds import make_draft
from eda_service.errors import ArtifactCorruptError, ConflictError, InputError
from eda_service.export.files.contents import D2T, TOKEN_MAP, shapes_of
from eda_service.export.files.eda_config import Destination, EdaConfig
from eda_service.export.files.values import widest
from eda_service.export.packed.pack_parts import VOCABULARIES, is_of_packs
from eda_service.storage.files import publish_dir, sha256_file
from eda_service.storage.staging import staged

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def require_free(directory: Path, param: str) -> None:
    """Refuse to write where something exists.

    Raises:
        ConflictError: The path exists and is no empty directory.
    """
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if directory.exists():
        raise ConflictError(f"{directory} exists already; remove it or choose another directory", param=param)


@contextmanager
def published(directory: Path, param: str) -> Iterator[Path]:
    """Enter a staging directory that replaces `directory` when the block ends, and is removed if it fails.

    What a killed process left there of an export to the same place is removed first.

    Raises:
        ConflictError: The path `directory` exists and is not empty.
        InputError: Nothing can be written beside `directory`.
    """
    require_free(directory, param)
    place = directory.absolute()
    with ExitStack() as held:
        try:
            staging = held.enter_context(staged(place))
        except OSError as error:
            raise InputError(
                f"{directory} cannot be written: {error}; choose another directory", param=param
            ) from error
        yield staging
        _open_to_readers(staging)
        require_free(directory, param)
        publish_dir(staging, place)


def _open_to_readers(staging: Path) -> None:
    """Set the permissions that this user's umask gives to new files: libraries write weights readable by their user
    only, but a server often runs as another user. The directory itself was made under that umask.
    """
    mode = staging.stat().st_mode & 0o777
    for path in staging.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def write_weights(directory: Path, tensors: dict[str, Tensor]) -> str:
    """Write model.safetensors; return its hash."""
    path = directory / WEIGHTS
    save_file(tensors, path, metadata={"format": "pt"})
    return sha256_file(path)


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Write config.json."""
    text = json.dumps(config, indent=2) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")


def write_token_map(directory: Path, vocab_W: Tensor) -> None:
    """Write the draft vocabulary as SGLang's `--speculative-token-map` reads it: a pickled list of token ids."""
    torch.save(vocab_W.tolist(), directory / TOKEN_MAP)


def read_eda_config(directory: Path) -> EdaConfig:
    """Read the `eda_config` of an export.

    Raises:
        ArtifactCorruptError: The config cannot be read or lacks the block.
    """
    try:
        return EdaConfig.model_validate(json.loads((directory / CONFIG).read_text(encoding="utf-8"))["eda_config"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactCorruptError(f"{directory} cannot be read as an export: {error}; export again") from error


def read_export(directory: Path) -> tuple[EdaConfig, LoadedDraft]:
    """Load an export as this project's engine can run it, in the widest dtype of its file; for several packs, the base
    draft.

    Raises:
        ArtifactCorruptError: The export does not parse, a hash differs, or names and shapes differ from its config.
    """
    eda = read_eda_config(directory)
    try:
        tensors = {canonical_name(name): tensor for name, tensor in load_file(directory / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise ArtifactCorruptError(f"{directory} cannot be read as an export: {error}; export again") from error
    found = sha256_file(directory / WEIGHTS)
    if found != eda.weights_sha256:
        raise ArtifactCorruptError(
            f"{directory / WEIGHTS} has sha256 {found[:12]}, its config says {eda.weights_sha256[:12]}; export again"
        )
    _check_shapes(directory, tensors, eda)
    draft = make_draft(eda.draft)
    if eda.private is not None:
        draft.add_private(eda.private)
    draft.to(widest(tensors)).load_state_dict({name: tensors[name] for name, _ in draft.named_parameters()})
    return eda, LoadedDraft(draft.requires_grad_(False), _vocabulary(directory, tensors, eda))


def _check_shapes(directory: Path, tensors: dict[str, Tensor], eda: EdaConfig) -> None:
    wanted, found = shapes_of(eda), {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [
        f"{name}: {found.get(name, 'missing')} instead of {wanted.get(name, 'none')}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if wrong:
        raise ArtifactCorruptError(f"{directory / WEIGHTS} does not fit its config: {'; '.join(wrong)}; export again")


def _vocabulary(directory: Path, tensors: dict[str, Tensor], eda: EdaConfig) -> Tensor | None:
    if VOCABULARIES in tensors:
        return _vocabulary_of_base(tensors, eda)
    if eda.draft_vocab_size is None:
        return None
    if eda.destination is Destination.SGLANG and eda.draft.kind == "eagle1":
        return torch.tensor(torch.load(directory / TOKEN_MAP, weights_only=True), dtype=torch.int32)
    return (tensors[D2T] + torch.arange(eda.draft_vocab_size)).int()


def _vocabulary_of_base(tensors: dict[str, Tensor], eda: EdaConfig) -> Tensor | None:
    """Return the tokens that the base draft scores, from a head that also holds the rows of several packs."""
    is_own_U = tensors[VOCABULARIES][0]
    ids_U = torch.arange(len(is_own_U)) + tensors.get(D2T, 0)
    own_W = ids_U[is_own_U].int()
    return None if len(own_W) == eda.draft.vocab_size else own_W


def check_written(directory: Path, eda: EdaConfig, tensors: dict[str, Tensor], vocab_W: Tensor | None) -> None:
    """Read an export back and compare it with the values that were to be written.

    Args:
        directory: Directory of the export.
        eda: The export's `eda_config`.
        tensors: Tensors by their names here.
        vocab_W: Tokens that the draft scores; None: all.

    Raises:
        ArtifactCorruptError: A value differs.
    """
    read, loaded = read_export(directory)
    draft = dict(loaded.draft.named_parameters())
    wrong = [name for name, parameter in draft.items() if not torch.equal(parameter, tensors[name].to(parameter.dtype))]
    if read != eda:
        wrong.append("eda_config")
    of_packs = {name: tensor for name, tensor in tensors.items() if is_of_packs(name)}
    if of_packs:
        written = load_file(directory / WEIGHTS)
        wrong += [name for name, tensor in of_packs.items() if not torch.equal(written[name], tensor)]
    ids = None if loaded.vocab_W is None else loaded.vocab_W.tolist()
    if ids != (None if vocab_W is None else vocab_W.tolist()):
        wrong.append("draft vocabulary")
    if wrong:
        raise ArtifactCorruptError(f"{directory} reads back with other values of {', '.join(wrong)}; export again")
