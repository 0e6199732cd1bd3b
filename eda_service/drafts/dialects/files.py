"""The files of a draft's directory: those with its tensors, and the place of each tensor in them. Imports no torch.

The files are chosen as the engines choose: `model.safetensors`, else the files of `model.safetensors.index.json`, else
the only other `*.safetensors`, else `pytorch_model.bin` in one or more files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eda_service.drafts.dialects.record import PickledSource
from eda_service.drafts.dialects.refusal import PARAM, refusal
from eda_service.errors import UnsafeCheckpointError, UnsafeDraftError
from eda_service.regular_files import open_regular
from eda_service.storage.inputs import bounded_json
from eda_service.storage.inputs.beneath import FileIdentity
from eda_service.storage.inputs.tensor_header import TensorPlace, read_header

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file.

    Attributes:
        name: Name of the file as published, or of the converted file.
        path: Path at which the file is read.
        data_begin: Offset of the first byte after the header.
        pickled: The pickled file that it was converted from; None if it was published as it is.
    """

    name: str
    path: Path
    identity: FileIdentity
    places: Mapping[str, TensorPlace]
    data_begin: int
    pickled: PickledSource | None = None

    @classmethod
    def of(cls, path: Path, *, pickled: PickledSource | None = None) -> TensorFile:
        """Read a file's header.

        Raises:
            UnsafeDraftError: The header does not describe exactly the bytes that follow it.
        """
        try:
            places = read_header(path, param=PARAM)
        except UnsafeCheckpointError as error:
            raise UnsafeDraftError(error.message, param=PARAM) from error
        identity = FileIdentity.of(os.stat(path))
        data_bytes = max((place.end for place in places.values()), default=0)
        return cls(path.name, path, identity, places, identity.size_bytes - data_bytes, pickled)

    def header_text(self) -> str:
        """Read the JSON of the file's header, to the byte."""
        with open_regular(self.path) as stream:
            return stream.read(self.data_begin)[_LENGTH_BYTES:].decode("utf-8")

    def require_unchanged(self) -> None:
        """Check that the file is still the one whose header was read.

        Raises:
            DraftIncompatibleError: The file was replaced or changed.
        """
        if FileIdentity.of(os.stat(self.path)) != self.identity:
            raise refusal(f"{self.path} changed while it was read; import again when nothing writes to it")


def read_config(directory: Path) -> tuple[dict[str, Any], str]:
    """Read `config.json`; return it parsed and as text.

    Raises:
        DraftIncompatibleError: The file does not exist, or holds no JSON object.
    """
    path = directory / CONFIG
    try:
        with open_regular(path) as stream:
            text = stream.read(bounded_json.MAX_BYTES + 1)
        if len(text) > bounded_json.MAX_BYTES:
            raise ValueError(f"it has more than {bounded_json.MAX_BYTES} bytes")
        config = bounded_json.parse(text, unique_keys=True)
        if not isinstance(config, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError as error:
        raise refusal(f"{directory} has no {CONFIG}; name the directory of a draft as it was published") from error
    except (ValueError, OSError) as error:
        raise refusal(f"{path} cannot be read: {error}; save the draft again") from error
    return config, text.decode("utf-8")


def tensor_files(directory: Path) -> tuple[Path, ...]:
    """Return the safetensors files that hold a draft; empty if only pickled files exist.

    Raises:
        DraftIncompatibleError: There are no weights at all, it is not clear which files belong to the draft, or one is
            missing.
    """
    if (directory / WEIGHTS).is_file():
        return (directory / WEIGHTS,)
    if (directory / INDEX).is_file():
        return _of_index(directory, INDEX, ".safetensors")
    others = sorted(directory.glob("*.safetensors"))
    if len(others) > 1:
        names = ", ".join(path.name for path in others[:3])
        raise refusal(
            f"{directory} has {len(others)} safetensors files ({names}, ...) and no {INDEX} that says which belong to "
            "the draft; leave only its own, or add the index"
        )
    if not others and not pickled_files(directory):
        raise refusal(
            f"{directory} has neither {WEIGHTS}, {INDEX} nor {PICKLE}; name the directory of a draft as it was "
            "published"
        )
    return tuple(others)


def pickled_files(directory: Path) -> tuple[Path, ...]:
    """Return the pickled files that hold a draft; empty if none exist.

    Raises:
        DraftIncompatibleError: One of them is missing.
    """
    if (directory / PICKLE).is_file():
        return (directory / PICKLE,)
    if (directory / PICKLE_INDEX).is_file():
        return _of_index(directory, PICKLE_INDEX, ".bin")
    return ()


def unread_weights(directory: Path, read: Iterable[Path]) -> tuple[str, ...]:
    """Return the names of files with weights that are not among those that were read."""
    names = {path.name for path in read}
    beside = (path.name for ending in ("*.safetensors", "*.bin", "*.pt", "*.pth") for path in directory.glob(ending))
    return tuple(sorted(set(beside) - names))


def _of_index(directory: Path, index: str, ending: str) -> tuple[Path, ...]:
    try:
        places = bounded_json.read_object(directory / index).get("weight_map")
    except (ValueError, OSError) as error:
        raise refusal(f"{directory / index} cannot be read: {error}; save the draft again") from error
    if not isinstance(places, dict) or not places or not all(_is_name(each, ending) for each in places.values()):
        raise refusal(f"{directory / index} has no weight_map from tensors to {ending} files beside it; save it again")
    names = sorted(set(places.values()))
    gone = [name for name in names if not (directory / name).is_file()]
    if gone:
        raise refusal(
            f"{directory / index} names {', '.join(gone[:3])}, not there ({len(names) - len(gone)} of {len(names)} "
            "files are); copy the missing ones"
        )
    return tuple(directory / name for name in names)


def _is_name(value: object, ending: str) -> bool:
    return isinstance(value, str) and value.endswith(ending) and "/" not in value and len(value) <= 255
