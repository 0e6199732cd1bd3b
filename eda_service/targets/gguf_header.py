"""The header of a GGUF file, checked before a reader maps it.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version, counts, key-value pairs, the
name, shape, type and place of each tensor, then the aligned data. Every length and count is held against what is left
of the file, so that a few bytes cannot ask for much memory.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from eda_service.errors import UnsafeCheckpointError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_COUNT = 1 << 16
_MAX_ITEMS = 1 << 24
_MAX_KEY_BYTES = 1 << 16
_MAX_DIMENSIONS = 4
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each value type of a fixed size; 8 is a string, 9 an array."""
_UINT32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT_KEY, _ALIGNMENT = b"general.alignment", 32


@dataclass(frozen=True)
class GgufHeader:
    """Attributes: keys of the metadata; the number of tensors; where their data begins."""

    keys: tuple[str, ...]
    num_tensors: int
    data_begin: int


def read_gguf_header(path: Path) -> GgufHeader:
    """Check a file's header.

    Raises:
        UnsafeCheckpointError: It does not describe the bytes that follow.
    """
    try:
        with path.open("rb") as stream:
            return _Reader(stream, path.stat().st_size).header()
    except (OSError, ValueError) as error:
        raise UnsafeCheckpointError(
            f"{path} is no sound GGUF file: {error}; fetch it again", param="target.model"
        ) from error


class _Reader:
    def __init__(self, stream: BinaryIO, size_bytes: int) -> None:
        self._stream, self._left_bytes, self._size_bytes = stream, size_bytes, size_bytes

    def header(self) -> GgufHeader:
        if self._take(4) != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        version, num_tensors, num_pairs = self._number("<I"), self._number("<Q"), self._number("<Q")
        if version not in _VERSIONS:
            raise ValueError(f"it has version {version}, known are {_VERSIONS}")
        if max(num_tensors, num_pairs) > _MAX_COUNT:
            raise ValueError(f"it names {num_tensors} tensors and {num_pairs} keys, at most {_MAX_COUNT} are read")
        alignment, keys = _ALIGNMENT, []
        for _ in range(num_pairs):
            key, kind = self._string(), self._number("<I")
            if key == _ALIGNMENT_KEY and kind == _UINT32:
                alignment = self._number("<I")
            else:
                self._skip_value(kind)
            keys.append(key.decode("utf-8"))
        if len(set(keys)) != len(keys):
            raise ValueError("a key stands there twice")
        if alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise ValueError(f"its alignment is {alignment}, a power of two from 8 is needed")
        tensors = [self._tensor(alignment) for _ in range(num_tensors)]
        begin = -(-(self._size_bytes - self._left_bytes) // alignment) * alignment
        self._check_places(tensors, begin)
        return GgufHeader(tuple(keys), num_tensors, begin)

    def _check_places(self, tensors: list[tuple[bytes, int, int]], begin: int) -> None:
        if len({name for name, _, _ in tensors}) != len(tensors):
            raise ValueError("a tensor stands there twice")
        reached = 0
        for name, offset, num_bytes in sorted(tensors, key=lambda each: each[1]):
            if offset < reached or begin + offset + num_bytes > self._size_bytes:
                raise ValueError(f"tensor {name[:64]!r} overlaps another or the end of the file")
            reached = offset + num_bytes

    def _tensor(self, alignment: int) -> tuple[bytes, int, int]:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name, num_dimensions = self._string(), self._number("<I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise ValueError(
                f"tensor {name[:64]!r} has {num_dimensions} dimensions, allowed are 1 to {_MAX_DIMENSIONS}"
            )
        shape = [self._number("<Q") for _ in range(num_dimensions)]
        kind, offset = self._number("<I"), self._number("<Q")
        if kind not in {int(each) for each in GGMLQuantizationType}:
            raise ValueError(f"tensor {name[:64]!r} has the unknown type {kind}")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if min(shape) < 1 or math.prod(shape) > 8 * self._size_bytes * block or shape[0] % block or offset % alignment:
            raise ValueError(f"tensor {name[:64]!r} of {shape} at {offset} does not fit its type or alignment")
        return name, offset, math.prod(shape) // block * block_bytes

    def _skip_value(self, kind: int, *, in_array: bool = False) -> None:
        if kind in _SIZES:
            self._take(_SIZES[kind])
        elif kind == _STRING:
            self._skip(self._number("<Q"))
        elif kind == _ARRAY and not in_array:
            item, count = self._number("<I"), self._number("<Q")
            if count > _MAX_ITEMS:
                raise ValueError(f"an array has {count} items, at most {_MAX_ITEMS} are read")
            if item in _SIZES:
                self._skip(_SIZES[item] * count)
                return
            for _ in range(count):
                self._skip_value(item, in_array=True)
        else:
            raise ValueError(f"a value has the type {kind}, which is not read")

    def _string(self) -> bytes:
        length = self._number("<Q")
        if length > _MAX_KEY_BYTES:
            raise ValueError(f"a name has {length} bytes, at most {_MAX_KEY_BYTES} are read")
        return self._take(length)

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _skip(self, num_bytes: int) -> None:
        if num_bytes > self._left_bytes:
            raise ValueError("it ends in the middle of its header")
        self._stream.seek(num_bytes, 1)
        self._left_bytes -= num_bytes

    def _take(self, num_bytes: int) -> bytes:
        if num_bytes > self._left_bytes:
            raise ValueError("it ends in the middle of its header")
        self._left_bytes -= num_bytes
        found = self._stream.read(num_bytes)
        if len(found) != num_bytes:
            raise ValueError("it became shorter while it was read")
        return found
