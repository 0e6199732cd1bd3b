"""Files that are cut, that lie about their tensors, or of which some are missing."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from dialect_files import TARGET, official, put, speculators, tensors_of

from eda_service.drafts.dialects.read import read_source
from eda_service.errors import DraftIncompatibleError, UnsafeDraftError


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_header(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def overlapping(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    header["norm.weight"]["data_offsets"] = header["midlayer.hidden_norm.weight"]["data_offsets"]
    return header, data


def lying(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    header["norm.weight"]["shape"] = [33]
    return header, data


@pytest.mark.parametrize(
    "lie", [overlapping, lying, lambda header, data: (header, data[:-1]), lambda h, d: (h, d + b"x")]
)
def test_headers_that_do_not_describe_their_file(tmp_path: Path, lie: Any) -> None:
    path = put(tmp_path, official, tensors_of(embedding=True)) / "model.safetensors"
    write_header(path, *lie(*header_of(path)))
    with pytest.raises(UnsafeDraftError, match=r"model\.safetensors is no sound safetensors file") as caught:
        read_source(tmp_path, TARGET)
    assert (caught.value.code, caught.value.param) == ("draft_incompatible", "source")


@pytest.mark.parametrize("size", [0, 7, 100])
def test_truncated_files(tmp_path: Path, size: int) -> None:
    path = put(tmp_path, official, tensors_of(embedding=True)) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UnsafeDraftError, match="save it again"):
        read_source(tmp_path, TARGET)


def test_directories_that_hold_no_draft(tmp_path: Path) -> None:
    with pytest.raises(DraftIncompatibleError, match=r"has no config\.json"):
        read_source(tmp_path, TARGET)
    (tmp_path / "config.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(DraftIncompatibleError, match="twice"):
        read_source(tmp_path, TARGET)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DraftIncompatibleError, match=r"neither model\.safetensors"):
        read_source(tmp_path, TARGET)
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    with pytest.raises(DraftIncompatibleError, match="2 safetensors files"):
        read_source(tmp_path, TARGET)


def test_shards_that_are_missing_or_hold_a_tensor_twice(tmp_path: Path) -> None:
    path = put(tmp_path, speculators, tensors_of(embedding=True), files="shards")
    second = path / "model-00002-of-00002.safetensors"
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(DraftIncompatibleError, match="not there"):
        read_source(path, TARGET)
    second.write_bytes((path / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(DraftIncompatibleError, match="stands in"):
        read_source(path, TARGET)
    second.write_bytes(kept)
    read_source(path, TARGET)
