"""Storing a draft that was read as a base draft, with unchanged bytes and dtypes.

    config.json            the draft's config
    draft.safetensors      the tensors that it computes with, by canonical name; and `draft_vocab`
    dialect.safetensors    other tensors of its files, by their name there; absent if there are none
    dialect.json           the description of the files (`DialectRecord`)

Data is copied from file to file in blocks, so that no draft needs to fit into memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from eda_service.drafts.dialects.files import TensorFile
from eda_service.drafts.dialects.read import ReadDraft
from eda_service.drafts.dialects.record import DialectRecord
from eda_service.drafts.dialects.tensors import DTYPES, TensorAt
from eda_service.errors import ArtifactCorruptError

RECORD, EXTRAS = "dialect.json", "dialect.safetensors"
_CONFIG, _DRAFT, _VOCAB = "config.json", "draft.safetensors", "draft_vocab"


@dataclass(frozen=True)
class _Entry:
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Iterable[bytes]
    size_bytes: int


def write_imported(read: ReadDraft, staging_dir: Path) -> None:
    """Write a base draft into an existing directory.

    Args:
        read: Draft whose files are read once more.
        staging_dir: Empty directory to write to.

    Raises:
        DraftIncompatibleError: The files changed since they were read.
        OSError: The files cannot be written, for example because the disk is full.
    """
    (staging_dir / _CONFIG).write_text(read.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    entries = [_entry(name, at) for name, at in read.tensors.items()]
    if read.vocab_W is not None:
        ids_W = read.vocab_W.to(torch.int32).contiguous()
        data = ids_W.numpy().tobytes()
        entries.append(_Entry(_VOCAB, "I32", tuple(ids_W.shape), [data], len(data)))
    _write(staging_dir / _DRAFT, entries)
    if read.extras:
        _write(staging_dir / EXTRAS, [_entry(name, at) for name, at in read.extras.items()])
    for file in {id(at.file): at.file for at in (*read.tensors.values(), *read.extras.values())}.values():
        file.require_unchanged()
    text = read.record.model_dump_json(indent=2) + "\n"
    (staging_dir / RECORD).write_text(text, encoding="utf-8")


def read_dialect(directory: Path) -> DialectRecord | None:
    """Read the record of the files of a stored base draft; None if the draft was not imported.

    Raises:
        ArtifactCorruptError: The record cannot be read.
    """
    path = directory / RECORD
    try:
        return DialectRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise ArtifactCorruptError(f"{path} cannot be read: {error}; fetch the draft or import it again") from error


def extra_tensors(directory: Path) -> Mapping[str, TensorAt]:
    """Return the tensors of an imported draft's files that it does not compute with, by their name in the file."""
    path = directory / EXTRAS
    if not path.is_file():
        return {}
    file = TensorFile.of(path)
    return {name: TensorAt(file, name) for name in file.places}


def _entry(name: str, at: TensorAt) -> _Entry:
    return _Entry(name, at.dtype, at.shape, _Blocks(at), at.size_bytes)


@dataclass(frozen=True)
class _Blocks:
    at: TensorAt

    def __iter__(self) -> Iterator[bytes]:
        return self.at.blocks()


def _write(path: Path, entries: list[_Entry]) -> None:
    """Write a safetensors file, each tensor aligned to its element size: tensors with wide elements first."""
    ordered = sorted(entries, key=lambda each: (-_width(each), each.name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in ordered:
        begin, end = end, end + entry.size_bytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered:
            for block in entry.data:
                stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())


def _width(entry: _Entry) -> int:
    return DTYPES[entry.dtype].itemsize if entry.dtype in DTYPES else 1
