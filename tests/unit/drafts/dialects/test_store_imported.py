"""An imported draft is stored with the bytes and dtypes that it came with, and loads as a base draft."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dialect_files import IDS, TARGET, V, bytes_of, official, official_eagle1, put, specforge, tensors_of
from safetensors import safe_open
from safetensors.torch import load_file

from eda_service.drafts.checkpoint import load_base_draft
from eda_service.drafts.dialects.embedding import Likeness, embedding_against
from eda_service.drafts.dialects.read import read_source
from eda_service.drafts.dialects.store import extra_tensors, read_dialect, write_imported
from eda_service.drafts.draft_config import parse_draft_config
from eda_service.drafts.freezing import frozen_sha256
from eda_service.errors import ArtifactCorruptError, DraftIncompatibleError

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("files", ["one", "shards"])
def test_bytes_and_dtypes_stay(tmp_path: Path, dtype: torch.dtype, files: str) -> None:
    tensors = tensors_of(embedding=True, dtype=dtype)
    tensors["norm.weight"] = tensors["norm.weight"].float()
    read = read_source(put(tmp_path / "source", official, tensors, files=files), TARGET)
    staging = tmp_path / "staging"
    staging.mkdir()
    write_imported(read, staging)
    stored = load_file(staging / "draft.safetensors")
    ids = stored.pop("draft_vocab")
    assert (ids.dtype, ids.tolist()) == (torch.int32, IDS)
    assert {name: (each.dtype, bytes_of(each)) for name, each in stored.items()} == {
        name: (each.dtype, bytes_of(each)) for name, each in tensors.items()
    }
    with safe_open(staging / "dialect.safetensors", "pt") as extras:
        assert sorted(extras.keys()) == ["d2t", "t2d"]
        assert extras.get_tensor("t2d").nonzero().flatten().tolist() == IDS
    assert sorted(extra_tensors(staging)) == ["d2t", "t2d"]
    assert parse_draft_config((staging / "config.json").read_text()) == read.config
    assert read_dialect(staging) == read.record
    assert sorted(path.name for path in staging.iterdir()) == [
        "config.json", "dialect.json", "dialect.safetensors", "draft.safetensors",
    ]  # fmt: skip


def test_the_files_can_be_written_again_to_the_byte(tmp_path: Path) -> None:
    """From the record and the stored tensors alone: what a later export relies on."""
    source = put(tmp_path / "source", official, tensors_of(embedding=True), files="shards")
    staging = tmp_path / "staging"
    staging.mkdir()
    write_imported(read_source(source, TARGET), staging)
    record = read_dialect(staging)
    assert record is not None
    stored = {**load_file(staging / "draft.safetensors"), **load_file(staging / "dialect.safetensors")}
    canonical = {each.name: each.canonical or each.name for each in record.tensors}
    for file in record.files:
        header = json.loads(file.header)
        header.pop("__metadata__")
        names = sorted(header, key=lambda name: header[name]["data_offsets"][0])
        data = b"".join(bytes_of(stored[canonical[name]]) for name in names)
        text = file.header.encode()
        assert len(text).to_bytes(8, "little") + text + data == (source / file.name).read_bytes()
    assert record.config_text == (source / "config.json").read_text()


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_loads_in_the_dtype_that_is_asked_for_and_its_hash_does_not_depend_on_it(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    tensors = tensors_of("eagle1", dtype=dtype)
    read = read_source(put(tmp_path / "source", official_eagle1, tensors), TARGET)
    write_imported(read, tmp_path)
    loaded = {each: load_base_draft(tmp_path, dtype=each).draft for each in (torch.float32, torch.bfloat16)}
    for each, draft in loaded.items():
        parameters = dict(draft.named_parameters())
        assert parameters.keys() == tensors.keys()
        assert all(torch.equal(parameters[name], tensors[name].to(each)) for name in tensors)
        assert all(parameter.requires_grad for parameter in parameters.values())
        draft.requires_grad_(False)
    if dtype is not torch.float16:  # float16 to bfloat16 rounds once, by either way
        assert frozen_sha256(loaded[torch.float32], torch.bfloat16) == frozen_sha256(loaded[torch.bfloat16])


def test_eagle3_loads(tmp_path: Path) -> None:
    norms = ("input_norm", "fc_norm.0", "fc_norm.1", "fc_norm.2")
    biases = tuple(f"layers.0.self_attn.{each}_proj" for each in "qkvo")
    tensors = tensors_of(embedding=True, qk_norm=True, norms=norms, biases=biases)
    write_imported(read_source(put(tmp_path / "source", specforge, tensors), TARGET), tmp_path)
    loaded = load_base_draft(tmp_path, dtype=torch.float32)
    assert {name: bytes_of(each.detach().bfloat16()) for name, each in loaded.draft.named_parameters()} == {
        name: bytes_of(each) for name, each in tensors.items()
    }
    assert loaded.vocab_W is not None


def test_files_that_change_while_they_are_stored_are_refused(tmp_path: Path) -> None:
    source = put(tmp_path / "source", official, tensors_of(embedding=True))
    read = read_source(source, TARGET)
    (source / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    staging = tmp_path / "staging"
    staging.mkdir()
    with pytest.raises(DraftIncompatibleError, match="changed while"):
        write_imported(read, staging)


def test_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    assert read_dialect(tmp_path) is None
    (tmp_path / "dialect.json").write_text("{}")
    with pytest.raises(ArtifactCorruptError, match=r"dialect\.json"):
        read_dialect(tmp_path)


def test_an_embedding_that_is_the_targets_or_not(tmp_path: Path) -> None:
    table = torch.randn(V, 32, generator=torch.Generator().manual_seed(1))
    table[5] = 0  # as padding is
    trained = table.clone()
    trained[7] = -trained[7]
    cases = {
        Likeness.EQUAL: (table.bfloat16(), 0.0),
        Likeness.ROUNDED: (table.half(), 0.0),
        Likeness.OTHER: (trained.bfloat16(), 1 / V),
    }
    for index, (likeness, (own, far)) in enumerate(cases.items()):
        tensors = {**tensors_of(), "embed_tokens.weight": own}
        read = read_source(put(tmp_path / str(index), official, tensors), TARGET)
        found = embedding_against(read, table.bfloat16())
        assert found is not None
        assert (found.likeness, found.far_fraction) == (likeness, far)
    random = read_source(put(tmp_path / "random", official, tensors_of(embedding=True)), TARGET)
    found = embedding_against(random, table)
    assert found is not None
    assert (found.likeness, found.far_fraction) == (Likeness.OTHER, 1.0), "what some exporters write"
    assert embedding_against(read_source(put(tmp_path / "none", official, tensors_of()), TARGET), table) is None
    with pytest.raises(DraftIncompatibleError, match="has 64 rows"):
        embedding_against(random, table[:60])
