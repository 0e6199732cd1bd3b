"""GGUF headers: what `gguf` itself writes passes, and lies about lengths, counts and places do not."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from eda_service.errors import UnsafeCheckpointError
from eda_service.targets.gguf_header import read_gguf_header

KEY = struct.pack("<Q", 1) + b"k"


def header(num_tensors: int = 0, num_pairs: int = 0, *, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_pairs)


def tensor(name: bytes, shape: list[int], kind: int, offset: int) -> bytes:
    parts = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape))
    return parts + b"".join(struct.pack("<Q", each) for each in shape) + struct.pack("<IQ", kind, offset)


def test_a_real_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_array("tokenizer.ggml.scores", [0.0, 1.0])
    writer.add_string("tokenizer.chat_template", "x" * 100_000)
    writer.add_tensor("a", np.zeros((3, 5), dtype=np.float32))
    writer.add_tensor("b", np.zeros(7, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf_header(path)
    assert found.num_tensors == 2
    assert "tokenizer.ggml.tokens" in found.keys
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UnsafeCheckpointError, match="end of the file"):
        read_gguf_header(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "ends in the middle"),
        (b"PK\3\4" + bytes(20), "does not begin"),
        (header(version=9), "version 9"),
        (header(version=3 << 24), "version"),  # big-endian
        (header(1 << 40), "at most"),
        (header(0, 1 << 40), "at most"),
        (header(0, 1) + struct.pack("<Q", 1 << 60), "a name has"),
        (header(0, 1) + KEY + struct.pack("<I", 99), "type 99"),
        (header(0, 1) + KEY + struct.pack("<IIQ", 9, 0, 1 << 60), "an array has"),
        (header(0, 1) + KEY + struct.pack("<IIQ", 9, 0, 1 << 20), "ends in the middle"),
        (header(0, 1) + KEY + struct.pack("<IIQ", 9, 9, 1), "type 9"),
        (header(0, 1) + KEY + struct.pack("<IQ", 8, 1 << 50), "ends in the middle"),
        (header(0, 2) + 2 * (KEY + struct.pack("<IB", 0, 1)), "twice"),
        (header(1) + tensor(b"t", [1] * 5, 0, 0), "5 dimensions"),
        (header(1) + tensor(b"t", [4], 77, 0), "unknown type 77"),
        (header(1) + tensor(b"t", [0], 0, 0) + bytes(64), "does not fit"),
        (header(1) + tensor(b"t", [1 << 40, 1 << 40], 0, 0), "does not fit"),
        (header(1) + tensor(b"t", [4], 0, 3) + bytes(64), "alignment"),
        (header(1) + tensor(b"t", [31], 2, 0) + bytes(64), "does not fit"),
        (header(2) + tensor(b"t", [4], 0, 0) + tensor(b"u", [4], 0, 0) + bytes(128), "overlaps"),
        (header(2) + tensor(b"t", [4], 0, 0) + tensor(b"t", [4], 0, 32) + bytes(128), "twice"),
        (header(1) + tensor(b"t", [64], 0, 0) + bytes(64), "end of the file"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsafeCheckpointError, match=problem):
        read_gguf_header(path)
