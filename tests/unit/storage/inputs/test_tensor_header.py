"""Headers of safetensors files that lie, each refused before anything is mapped."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from eda_service.errors import UnsafeCheckpointError
from eda_service.storage.inputs.tensor_header import MAX_HEADER_BYTES, parse_header, read_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def write(path: Path, header: bytes, data: bytes = b"\0" * 8, *, length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def test_a_real_file_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(3, 5, dtype=torch.bfloat16),
        "b.c": torch.zeros(()),
        "none": torch.zeros(0, 4, dtype=torch.int64),
        "z": torch.ones(7, dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as stream:
        assert set(stream.keys()) == set(found)
        for name, place in found.items():
            assert tuple(stream.get_slice(name).get_shape()) == place.shape
            assert stream.get_slice(name).get_dtype() == place.dtype
    assert sum(place.end - place.begin for place in found.values()) == 30 + 4 + 7


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (text({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}), "begins at byte 4"),
        (text({"a": F32, "b": {**F32, "data_offsets": [0, 8]}}), "begins at byte 0"),
        (text({"a": {**F32, "data_offsets": [8, 16]}}), "begins at byte 8"),
        (text({"a": {**F32, "shape": [4], "data_offsets": [0, 16]}}), "take 16 bytes, 8 follow"),
        (text({"a": {**F32, "shape": [1], "data_offsets": [0, 4]}}), "take 4 bytes, 8 follow"),
        (text({"a": {**F32, "shape": [3]}}), "does not take the 8 bytes"),
        (text({"a": {**F32, "data_offsets": [8, 0]}}), "does not take"),
        (text({"a": {**F32, "shape": [-2]}}), "no shape"),
        (text({"a": {**F32, "shape": [True, 2]}}), "no shape"),
        (text({"a": {**F32, "shape": [1 << 64]}}), "no shape"),
        (text({"a": {**F32, "shape": [1] * 9}}), "no shape"),
        (text({"a": {**F32, "shape": [1 << 40, 1 << 40]}}), "does not take"),
        (text({"a": {**F32, "data_offsets": [0]}}), "data_offsets"),
        (text({"a": {**F32, "data_offsets": [0.0, 8.0]}}), "data_offsets"),
        (text({"a": {**F32, "dtype": "OBJECT"}}), "dtype"),
        (text({"a": {**F32, "dtype": ["F32"]}}), "dtype"),
        (text({"a": {**F32, "pickle": "cos"}}), "alone"),
        (text({"a": {"dtype": "F32", "shape": [2]}}), "alone"),
        (text({"a": [1]}), "alone"),
        (text({"a" * 513: F32}), "characters"),
        (text({"__metadata__": {"a": 1}, "a": F32}), "strings"),
        (text({"__metadata__": [], "a": F32}), "strings"),
        (b'{"a": %s, "a": %s}' % (text(F32), text(F32)), "twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', "twice"),
        (text([F32]), "no object"),
        (b"{", "no JSON"),
        (b"\xff\xfe{}", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"a":' * 50_000, "no JSON"),
    ],
)
def test_a_header_that_does_not_describe_its_bytes_is_refused(tmp_path: Path, header: bytes, problem: str) -> None:
    with pytest.raises(UnsafeCheckpointError, match=problem):
        parse_header(header, 8)
    with pytest.raises(UnsafeCheckpointError, match="save it again") as caught:
        read_header(write(tmp_path / "x.safetensors", header), param="target.model")
    assert caught.value.param == "target.model"


@pytest.mark.parametrize("length", [0, 1, 1000, MAX_HEADER_BYTES + 1, (1 << 64) - 1])
def test_a_length_beyond_the_file_or_the_limit_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(UnsafeCheckpointError, match="header has"):
        read_header(write(tmp_path / "x.safetensors", text({"a": F32}), length=length))


@pytest.mark.parametrize("content", [b"", b"\x02", b"\x02\0\0\0\0\0\0\0"])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UnsafeCheckpointError):
        read_header(tmp_path / "x.safetensors")
