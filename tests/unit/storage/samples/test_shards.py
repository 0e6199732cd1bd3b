"""Shards: samples come back as they went in, row by row, with or without features; broken files are corrupt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eda_service.errors import ArtifactCorruptError
from eda_service.storage.samples.shards import Sample, features_path, read_shard, tokens_path, write_shard
from eda_service.training.dataset import CompactSet

SHAPES = [("a", 2, 5), ("b é/\u2028", 1, 3), ("c", 4, 9)]


def make_samples() -> list[Sample]:
    rng = torch.Generator().manual_seed(0)
    return [
        Sample(name, list(range(length)), num_prompt, torch.randn(length - 1, 6, generator=rng).half())
        for name, num_prompt, length in SHAPES
    ]


def same(got: Sample, wanted: Sample, *, features: bool = True) -> bool:
    assert (got.sample_id, got.token_ids, got.num_prompt_tokens) == (
        wanted.sample_id,
        wanted.token_ids,
        wanted.num_prompt_tokens,
    )
    if not features:
        return got.features is None
    assert got.features is not None
    assert wanted.features is not None
    return torch.equal(got.features, wanted.features)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    write_shard(tmp_path, "shard-00000", make_samples())
    return tmp_path


def test_round_trip(shard: Path) -> None:
    for got, wanted in zip(read_shard(shard, "shard-00000"), make_samples(), strict=True):
        assert same(got, wanted)
    assert sorted(path.name for path in shard.iterdir()) == [
        "shard-00000.features.safetensors",
        "shard-00000.tokens.safetensors",
    ]


@pytest.mark.parametrize("rows", [[2], [0, 2], [1], []])
def test_single_rows(shard: Path, rows: list[int]) -> None:
    wanted = make_samples()
    for got, row in zip(read_shard(shard, "shard-00000", rows), rows, strict=True):
        assert same(got, wanted[row])


def test_features_may_be_gone_when_only_tokens_are_read(shard: Path) -> None:
    features_path(shard, "shard-00000").unlink()
    for got, wanted in zip(read_shard(shard, "shard-00000", features=False), make_samples(), strict=True):
        assert same(got, wanted, features=False)
    with pytest.raises(ArtifactCorruptError, match="cannot be read"):
        list(read_shard(shard, "shard-00000"))


@pytest.mark.parametrize("which", [tokens_path, features_path])
def test_a_truncated_file_is_corrupt(shard: Path, which: object) -> None:
    path = which(shard, "shard-00000")  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactCorruptError, match="shard-00000"):
        list(read_shard(shard, "shard-00000"))


def test_answer_parts() -> None:
    sample = make_samples()[2]
    assert sample.num_answer_tokens == 5
    assert sample.features is not None
    assert torch.equal(sample.answer_states(), sample.features[4:])
    assert len(sample.answer_states()) == 4  # the last token is never forwarded


def test_compact_set_counts_over_shards(shard: Path) -> None:
    write_shard(shard, "shard-00001", make_samples()[:2])
    data = CompactSet(shard, [("shard-00000", 3), ("shard-00001", 2)])
    assert len(data) == 5
    wanted = [*make_samples(), *make_samples()[:2]]
    assert all(same(data.sample(i), wanted[i]) for i in range(5))
    batch = data.batch([4, 0], max_tokens=4, dtype=torch.float32)
    assert batch.token_ids_BL.tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
