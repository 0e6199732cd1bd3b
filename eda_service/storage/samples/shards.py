"""Shards of self-generated samples: token ids and, apart, features, as safetensors.

    shard-00000.tokens.safetensors    token_ids (T,) int32, offsets (N+1,) int64, prompt_lengths (N,) int32; the
                                      answers' texts: answers (U,) uint8, UTF-8, and answer_offsets (N+1,) int64, which
                                      shards of earlier versions do not have
    shard-00000.features.safetensors  features (T-N, C): of every token but each sample's last, which is not
                                      forwarded; head_in (T-N, D), if the draft reads other states than the head;
                                      metadata: whether features are the draft's start states
    shard-00000.json                  written last: sample ids, hashes, counts, scores

A shard counts once its JSON is there; features can be deleted apart from tokens.

Shapes: N samples, T tokens in all, U bytes of text, L tokens of one sample, A of its answer, C width of a feature,
D hidden.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eda_service.errors import ArtifactCorruptError, UnsafeCheckpointError
from eda_service.storage.files import temporary_name
from eda_service.storage.inputs.tensor_header import TensorPlace, read_header

_STARTED = "started"


@dataclass
class Sample:
    """One self-generated sample (x, y) with the target's states.

    Attributes:
        token_ids: Token ids of prompt and answer, the stop token included.
        num_prompt_tokens: Number of prompt tokens; answer positions start at this number.
        features: Input of the draft (L-1, C), for all tokens but the last; None if not loaded.
        own_head_in: Input of the target's head (L-1, D), if it is another tensor than the features.
        is_started: Whether the features are the draft's start states, in place of the target's states.
        answer: Text of the answer, for people to read; None if it was not kept.
    """

    sample_id: str
    token_ids: list[int]
    num_prompt_tokens: int
    features: Tensor | None
    own_head_in: Tensor | None = None
    is_started: bool = False
    answer: str | None = None

    @property
    def num_answer_tokens(self) -> int:
        """Number of tokens of the answer."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def head_in(self) -> Tensor:
        """The input of the target's head (L-1, D), for all tokens but the last."""
        head_in = self.features if self.own_head_in is None else self.own_head_in
        assert head_in is not None
        return head_in

    def answer_states(self) -> Tensor:
        """The input of the target's head (A-1, D) at the answer's tokens, except the last one."""
        return self.head_in[self.num_prompt_tokens :]


def tokens_path(directory: Path, name: str) -> Path:
    """Return the path of a shard's tokens."""
    return directory / f"{name}.tokens.safetensors"


def features_path(directory: Path, name: str) -> Path:
    """Return the path of a shard's features."""
    return directory / f"{name}.features.safetensors"


def write_shard(directory: Path, name: str, samples: Sequence[Sample]) -> list[Path]:
    """Write a shard's two files atomically; the caller writes the JSON afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    lengths = [len(sample.token_ids) for sample in samples]
    tokens = {
        "token_ids": torch.tensor([t for sample in samples for t in sample.token_ids], dtype=torch.int32),
        "offsets": torch.cat([torch.zeros(1, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64).cumsum(0)]),
        "prompt_lengths": torch.tensor([sample.num_prompt_tokens for sample in samples], dtype=torch.int32),
    }
    texts = [sample.answer.encode("utf-8", "replace") for sample in samples if sample.answer is not None]
    if samples and len(texts) == len(samples):
        tokens |= _packed(texts)
    states = {"features": torch.cat([sample.features for sample in samples if sample.features is not None])}
    own_head_in = [sample.own_head_in for sample in samples if sample.own_head_in is not None]
    if own_head_in:
        states["head_in"] = torch.cat(own_head_in)
    ids = {f"id{i}": sample.sample_id for i, sample in enumerate(samples)}
    _save(tokens_path(directory, name), tokens, ids)
    started = {_STARTED: "true"} if samples and samples[0].is_started else {}
    _save(features_path(directory, name), states, started)
    return [tokens_path(directory, name), features_path(directory, name)]


def _packed(texts: Sequence[bytes]) -> dict[str, Tensor]:
    """Pack texts into the two tensors that hold them."""
    ends = torch.tensor([0, *map(len, texts)], dtype=torch.int64).cumsum(0)
    joined = b"".join(texts)
    return {
        "answers": torch.frombuffer(bytearray(joined), dtype=torch.uint8) if joined else torch.zeros(0).byte(),
        "answer_offsets": ends,
    }


def _unpacked(stream: Any, num_rows: int) -> list[str | None]:
    """Unpack the texts of a shard."""
    joined, ends = stream.get_tensor("answers"), stream.get_tensor("answer_offsets").tolist()
    if joined.dtype != torch.uint8 or joined.ndim != 1 or len(ends) != num_rows + 1 or ends != sorted(ends):
        raise ValueError("answers and answer_offsets do not fit the rows")
    if ends[0] != 0 or ends[-1] != len(joined):
        raise ValueError(f"answer_offsets from {ends[0]} to {ends[-1]} for {len(joined)} bytes")
    data = bytes(joined.numpy())
    return [data[start:end].decode("utf-8", "replace") for start, end in pairwise(ends)]


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    temporary = temporary_name(path)
    save_file(tensors, temporary, metadata=metadata)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _check_rows(token_ids: Tensor, offsets: list[int], prompt_lengths: list[int], ids: Mapping[str, str]) -> None:
    """Check that every row lies inside the tokens, after the row before it, and contains its prompt."""
    if token_ids.ndim != 1 or token_ids.is_floating_point() or len(offsets) != len(prompt_lengths) + 1:
        raise ValueError("token_ids, offsets and prompt_lengths do not fit each other")
    if offsets[0] != 0 or offsets[-1] != len(token_ids):
        raise ValueError(f"offsets from {offsets[0]} to {offsets[-1]} for {len(token_ids)} tokens")
    for row, (start, end, num_prompt) in enumerate(zip(offsets, offsets[1:], prompt_lengths, strict=False)):
        if not 0 <= num_prompt <= end - start or end == start or f"id{row}" not in ids:
            raise ValueError(f"row {row} has {end - start} tokens, {num_prompt} of them a prompt's, or no id")


def _check_states(places: Mapping[str, TensorPlace], num_tokens: int, num_rows: int) -> None:
    """Check that both kinds of states exist for every token that was forwarded."""
    for name in ("features", "head_in") if "head_in" in places else ("features",):
        if places[name].shape[0] != num_tokens - num_rows:
            raise ValueError(f"{name} of {places[name].shape[0]} tokens, {num_tokens} tokens in all")


def read_shard(
    directory: Path, name: str, rows: Sequence[int] | None = None, *, features: bool = True
) -> Iterator[Sample]:
    """Read the samples of a shard, or of the given rows; features are read row by row.

    Raises:
        ArtifactCorruptError: A file is missing or has wrong content.
    """
    try:
        has_texts = "answers" in read_header(tokens_path(directory, name))
        with safe_open(tokens_path(directory, name), framework="pt") as stream:
            token_ids, offsets = stream.get_tensor("token_ids"), stream.get_tensor("offsets").tolist()
            prompt_lengths, ids = stream.get_tensor("prompt_lengths").tolist(), stream.metadata() or {}
            texts = _unpacked(stream, len(prompt_lengths)) if has_texts else [None] * len(prompt_lengths)
        places = read_header(features_path(directory, name)) if features else {}
        _check_rows(token_ids, offsets, prompt_lengths, ids)
        if features:
            _check_states(places, len(token_ids), len(prompt_lengths))
        feature_stream: Any = safe_open(features_path(directory, name), framework="pt") if features else None
    except (OSError, LookupError, TypeError, ValueError, SafetensorError, UnsafeCheckpointError) as error:
        raise ArtifactCorruptError(f"shard {name} in {directory} cannot be read: {error}; redo its stage") from error
    matrix = None if feature_stream is None else feature_stream.get_slice("features")
    head_in = feature_stream.get_slice("head_in") if "head_in" in places else None
    is_started = feature_stream is not None and _STARTED in (feature_stream.metadata() or {})
    for row in range(len(prompt_lengths)) if rows is None else rows:
        start, end = offsets[row], offsets[row + 1]
        values, own = (None if each is None else each[start - row : end - row - 1] for each in (matrix, head_in))
        ids_T = token_ids[start:end].tolist()
        yield Sample(ids[f"id{row}"], ids_T, prompt_lengths[row], values, own, is_started, texts[row])
