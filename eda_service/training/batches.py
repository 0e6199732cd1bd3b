"""Batches of self-generated samples: padded token ids and states with the loss mask.

Which samples form which batch is a pure function of seed, epoch and worker, so a resumed run sees the same batches.

Shapes: B samples, L positions (the longest sample), C width of a feature, D hidden.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eda_service.storage.samples.shards import Sample

_SORTED_BATCHES = 8


@dataclass
class Batch:
    """One worker's part of an optimizer step.

    Attributes:
        token_ids_BL: Right-padded with 0.
        features_BLD: The draft's inputs (B, L, C); zero where there is none (each sample's last token, padding).
        loss_mask_BL: True if the *token* at that position is to be learned: answer tokens.
        has_feature_BL: True if the states are known.
        own_head_in_BLD: The inputs of the target's head, if they are other states than the features; None otherwise.
        is_started: Whether the features are the draft's start states (`Draft.start`) instead of the target's states.
    """

    token_ids_BL: Tensor
    features_BLD: Tensor
    loss_mask_BL: Tensor
    has_feature_BL: Tensor
    own_head_in_BLD: Tensor | None = None
    is_started: bool = False

    @property
    def head_in(self) -> Tensor:
        """The inputs of the target's head (B, L, D)."""
        return self.features_BLD if self.own_head_in_BLD is None else self.own_head_in_BLD

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device."""
        own_head_in_BLD = None if self.own_head_in_BLD is None else self.own_head_in_BLD.to(device)
        return Batch(
            self.token_ids_BL.to(device),
            self.features_BLD.to(device),
            self.loss_mask_BL.to(device),
            self.has_feature_BL.to(device),
            own_head_in_BLD,
            self.is_started,
        )


def collate(samples: Sequence[Sample], *, max_tokens: int, dtype: torch.dtype) -> Batch:
    """Pad samples to the longest one, after cutting each at `max_tokens`."""
    lengths = [min(len(sample.token_ids), max_tokens) for sample in samples]
    width = max(lengths)
    token_ids_BL = torch.zeros(len(samples), width, dtype=torch.long)
    loss_mask_BL = torch.zeros(len(samples), width, dtype=torch.bool)
    has_feature_BL = torch.zeros(len(samples), width, dtype=torch.bool)
    for i, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        token_ids_BL[i, :length] = torch.tensor(sample.token_ids[:length])
        loss_mask_BL[i, sample.num_prompt_tokens : length] = True
        assert sample.features is not None
        has_feature_BL[i, : min(length, len(sample.features))] = True
    states = [[sample.features for sample in samples], [sample.own_head_in for sample in samples]]
    features_BLD, own_head_in_BLD = (_padded(each, width, dtype) for each in states)
    assert features_BLD is not None
    is_started = samples[0].is_started
    return Batch(token_ids_BL, features_BLD, loss_mask_BL, has_feature_BL, own_head_in_BLD, is_started)


def _padded(states: Sequence[Tensor | None], width: int, dtype: torch.dtype) -> Tensor | None:
    """Cut states of each sample, or pad them with zeros, to `width`; None if there are no states."""
    known = [each[:width].to(dtype) for each in states if each is not None]
    if len(known) < len(states):
        return None
    padded_BLC = torch.zeros(len(known), width, known[0].shape[1], dtype=dtype)
    for i, each in enumerate(known):
        padded_BLC[i, : len(each)] = each
    return padded_BLC


def epoch_batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the sample indices of every global batch of an epoch, shuffled; one partial batch is kept.

    A batch holds samples of similar length, taken from a few batches' worth of neighbours in the shuffled order,
    because a batch is padded to its longest sample.
    """
    rng = random.Random(f"{seed}:{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    window = _SORTED_BATCHES * batch_size
    grouped: list[int] = []
    for start in range(0, len(order), window):
        grouped += sorted(order[start : start + window], key=lambda i: lengths[i])
    batches = [grouped[start : start + batch_size] for start in range(0, len(grouped), batch_size)]
    rng.shuffle(batches)
    return batches


def worker_share(batch: Sequence[int], rank: int, world_size: int) -> list[int]:
    """Return one worker's samples of a global batch; a worker that would get none repeats the first, so that all
    workers take every step.
    """
    return list(batch[rank::world_size]) or [batch[0]]


def split_heldout(prompts: Sequence[str], fraction: float, *, seed: int, most: int = 64) -> tuple[list[int], list[int]]:
    """Split samples into (training, held-out) indices; all answers to a prompt are on one side.

    Args:
        prompts: Id of the prompt of each sample.
        fraction: Fraction of the prompts to hold out; if above 0, at least 1 prompt and at most `most`.
        seed: Seed of the choice.
        most: Largest number of held-out prompts.
    """
    order = list(dict.fromkeys(prompts))
    random.Random(f"heldout:{seed}").shuffle(order)
    count = 0 if fraction == 0 or len(order) < 2 else min(most, max(1, round(len(order) * fraction)))
    heldout = set(order[:count])
    sides: tuple[list[int], list[int]] = ([], [])
    for index, prompt in enumerate(prompts):
        sides[prompt in heldout].append(index)
    return sides
