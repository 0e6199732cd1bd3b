"""The header of a safetensors file, checked before any tensor is mapped.

The format (https://github.com/huggingface/safetensors, "Format"): eight bytes with the header's length N, N bytes of
JSON that name each tensor's dtype, shape and place, then the data. Cases that the library accepts are refused here too:
a name twice, an unknown key, a dtype that nothing here can hold.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eda_service.errors import UnsafeCheckpointError
from eda_service.regular_files import open_regular

MAX_HEADER_BYTES = 32 << 20
_MAX_TENSORS = 100_000
_MAX_NAME_CHARACTERS = 512
_MAX_DIMENSIONS = 8
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_BYTES_OF = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


@dataclass(frozen=True)
class TensorPlace:
    """One tensor of a file.

    Attributes:
        dtype: Dtype as the format names it.
        shape: Dimensions of the tensor.
        begin: First byte of its data, counted from the end of the header.
        end: Offset after its last byte, counted in the same way.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path, *, param: str | None = None) -> dict[str, TensorPlace]:
    """Read the place of every tensor of a file by name, in the order of the data.

    Raises:
        UnsafeCheckpointError: The header does not describe exactly the bytes that follow it.
    """
    try:
        with open_regular(path) as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            start = stream.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if len(start) < _LENGTH_BYTES or not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - _LENGTH_BYTES):
                raise _unsafe(f"its header has {length} bytes, the limit is {MAX_HEADER_BYTES} or the file's end")
            text = stream.read(length)
        return parse_header(text, size_bytes - _LENGTH_BYTES - length)
    except (OSError, UnsafeCheckpointError) as error:
        raise UnsafeCheckpointError(
            f"{path} is no sound safetensors file: {error}; save it again", param=param
        ) from error


def parse_header(text: bytes, data_bytes: int) -> dict[str, TensorPlace]:
    """Parse the tensors that a header's JSON names, which must fill `data_bytes` without a gap or an overlap.

    Raises:
        UnsafeCheckpointError: The tensors do not fill the data, or the JSON is not valid.
    """
    try:
        pairs = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _unsafe(f"its header is no JSON ({str(error)[:100]})") from error
    if not isinstance(pairs, dict) or len(pairs) > _MAX_TENSORS:
        raise _unsafe(f"its header is no object of at most {_MAX_TENSORS} tensors")
    _check_metadata(pairs.pop(_METADATA, {}))
    found = [(name, _place(name, value)) for name, value in pairs.items()]
    found.sort(key=lambda each: (each[1].begin, each[1].end))
    reached = 0
    for name, place in found:
        if place.begin != reached:
            raise _unsafe(f"tensor {name[:64]!r} begins at byte {place.begin}, the one before ends at {reached}")
        reached = place.end
    if reached != data_bytes:
        raise _unsafe(f"its tensors take {reached} bytes, {data_bytes} follow the header")
    return dict(found)


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _check_metadata(value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value.values()):
        raise _unsafe(f"{_METADATA} holds something else than strings")


def _place(name: str, value: Any) -> TensorPlace:
    shown = f"tensor {name[:64]!r}"
    if len(name) > _MAX_NAME_CHARACTERS:
        raise _unsafe(f"{shown}... has a name of {len(name)} characters, at most {_MAX_NAME_CHARACTERS} are allowed")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _unsafe(f"{shown} is not described by dtype, shape and data_offsets alone")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES_OF:
        raise _unsafe(f"{shown} has dtype {str(dtype)[:32]!r}; known are {', '.join(_BYTES_OF)}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _unsafe(f"{shown} has no shape of at most {_MAX_DIMENSIONS} dimensions")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _unsafe(f"{shown} has no two data_offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * _BYTES_OF[dtype]:
        raise _unsafe(f"{shown} of {dtype} {shape} does not take the {end - begin} bytes of its data_offsets")
    return TensorPlace(dtype, tuple(shape), begin, end)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 1 << 63 for each in value)


def _unsafe(message: str) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(message)
