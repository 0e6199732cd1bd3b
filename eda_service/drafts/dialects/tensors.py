"""Tensors inside files: read whole or in blocks, and checked for NaN and infinity.

No file is memory-mapped: if a file shrinks while it is read, that is a short read and not a signal (SIGBUS).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from eda_service.drafts.dialects.files import TensorFile
from eda_service.drafts.dialects.refusal import refusal
from eda_service.regular_files import open_regular
from eda_service.storage.inputs.tensor_header import TensorPlace

BLOCK_BYTES = 16 << 20
DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
    "U8": torch.uint8,
}
"""The dtypes that can be read into memory here, by the format's names."""
WEIGHT_DTYPES = ("BF16", "F16", "F32")
_EXPONENTS = {"BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00), "F32": (np.uint32, 0x7F800000)}
"""For each dtype an integer type of its width and the bits of its exponent, all set only in infinity and NaN."""


@dataclass(frozen=True)
class TensorAt:
    """One tensor of a file.

    Attributes:
        name: Name of the tensor in that file.
    """

    file: TensorFile
    name: str

    @property
    def place(self) -> TensorPlace:
        """The header's entry of the tensor."""
        return self.file.places[self.name]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's dimensions."""
        return self.place.shape

    @property
    def dtype(self) -> str:
        """The tensor's dtype as the format names it."""
        return self.place.dtype

    @property
    def size_bytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return self.place.end - self.place.begin

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Read the tensor's data in order, in blocks.

        Args:
            block_bytes: Largest size of a block in bytes.

        Raises:
            DraftIncompatibleError: The file ends before the data does.
        """
        with open_regular(self.file.path) as stream:
            stream.seek(self.file.data_begin + self.place.begin)
            yield from _blocks(stream, self, self.size_bytes, block_bytes)

    def load(self, first_row: int = 0, num_rows: int | None = None) -> Tensor:
        """Load the tensor, or some of its rows, into memory.

        Args:
            first_row: Index of the first row.
            num_rows: Largest number of rows; None: all rows from the first on.
        """
        rows = self.shape[0] if self.shape else 1
        last = rows if num_rows is None else min(rows, first_row + num_rows)
        row_bytes = self.size_bytes // rows if rows else 0
        with open_regular(self.file.path) as stream:
            stream.seek(self.file.data_begin + self.place.begin + first_row * row_bytes)
            data = bytearray().join(_blocks(stream, self, (last - first_row) * row_bytes, BLOCK_BYTES))
        shape = (last - first_row, *self.shape[1:]) if self.shape else ()
        if not data:
            return torch.empty(shape, dtype=DTYPES[self.dtype])
        return torch.frombuffer(data, dtype=DTYPES[self.dtype]).reshape(shape)


def sha256_of_sound(file: TensorFile, checked: Mapping[str, str]) -> str:
    """Return the hash of a file and check that its tensors are finite; the file is read once, block by block.

    Args:
        file: File of which every tensor is hashed.
        checked: Tensors that must be finite, by their names in the file, with the name to use in messages.

    Raises:
        DraftIncompatibleError: A tensor has NaN or infinity, or the file is not the one whose header was read.
    """
    digest = hashlib.sha256()
    with open_regular(file.path) as stream:
        digest.update(stream.read(file.data_begin))
        for name, place in file.places.items():  # in the order of the data in the file
            at, seen = TensorAt(file, name), 0
            for block in _blocks(stream, at, place.end - place.begin, BLOCK_BYTES):
                digest.update(block)
                if name in checked and place.dtype in _EXPONENTS:
                    _require_finite(at, block, seen)
                seen += len(block)
    file.require_unchanged()
    return digest.hexdigest()


def _require_finite(at: TensorAt, block: bytes, bytes_before: int) -> None:
    kind, exponent = _EXPONENTS[at.dtype]
    bits = np.frombuffer(block, dtype=kind) & kind(exponent)
    if bits.size and int(bits.max()) == exponent:
        element = bytes_before // np.dtype(kind).itemsize + int(bits.argmax())
        where = np.unravel_index(element, at.shape) if at.shape else ()
        raise refusal(
            f"{at.file.name}: {at.name} of {at.dtype} {list(at.shape)} holds NaN or infinity at "
            f"{[int(each) for each in where]}, finite numbers are needed; the draft was damaged in training or since: "
            "fetch it again, or take an earlier checkpoint"
        )


def _blocks(stream: BinaryIO, at: TensorAt, size_bytes: int, block_bytes: int) -> Iterator[bytes]:
    left = size_bytes
    while left:
        block = stream.read(min(left, block_bytes))
        if not block:
            raise _short(at)
        left -= len(block)
        yield block


def _short(at: TensorAt) -> Exception:
    return refusal(
        f"{at.file.path} ends before its tensor {at.name} does; it is being written, or was cut: fetch it again"
    )


def require_dtypes(tensors: Mapping[str, TensorAt], allowed: Sequence[str]) -> None:
    """Check the dtypes of tensors.

    Raises:
        DraftIncompatibleError: A tensor has a dtype that is not allowed.
    """
    for at in tensors.values():
        if at.dtype not in allowed:
            raise refusal(
                f"{at.file.name}: {at.name} is of dtype {at.dtype}, {', '.join(allowed)} are read; save the draft "
                "again in one of them"
            )
