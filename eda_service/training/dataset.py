"""The compact set for a trainer: an index over shards, with samples read one by one from memory-mapped files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from eda_service.storage.samples.shards import Sample, read_shard
from eda_service.training.batches import Batch, collate


class CompactSet:
    """Random access to samples.

    Args:
        directory: Directory of the shards.
        shards: (name, number of samples) of each shard, in order.
    """

    def __init__(self, directory: Path, shards: Sequence[tuple[str, int]]) -> None:
        self._directory = directory
        self._index = [(name, row) for name, count in shards for row in range(count)]

    def __len__(self) -> int:
        return len(self._index)

    def prompts(self) -> list[str]:
        """Prompt id of each sample: the sample's id without the number of a repeated answer."""
        names = dict.fromkeys(name for name, _ in self._index)
        ids = {name: [s.sample_id for s in read_shard(self._directory, name, features=False)] for name in names}
        return [ids[name][row].partition("#")[0] for name, row in self._index]

    def lengths(self, indices: Sequence[int]) -> list[int]:
        """Return the number of tokens of each of these samples."""
        names = dict.fromkeys(name for name, _ in self._index)
        tokens = {name: [len(s.token_ids) for s in read_shard(self._directory, name, features=False)] for name in names}
        return [tokens[name][row] for name, row in (self._index[i] for i in indices)]

    def sample(self, index: int) -> Sample:
        """Read one sample with its features."""
        name, row = self._index[index]
        return next(iter(read_shard(self._directory, name, [row])))

    def batch(self, indices: Sequence[int], *, max_tokens: int, dtype: torch.dtype) -> Batch:
        """Read and pad several samples."""
        return collate([self.sample(i) for i in indices], max_tokens=max_tokens, dtype=dtype)
