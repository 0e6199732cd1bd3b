"""Batches: padding, masks, cutting, and that their composition depends on seed, epoch and worker alone."""

from __future__ import annotations

import random

import pytest
import torch

from eda_service.storage.samples.shards import Sample
from eda_service.training.batches import collate, epoch_batches, split_heldout, worker_share


def sample(name: str, num_prompt: int, length: int) -> Sample:
    features = torch.arange(1, length, dtype=torch.float16)[:, None].expand(-1, 4).contiguous()
    return Sample(name, list(range(10, 10 + length)), num_prompt, features)


def test_padding_and_masks_by_hand() -> None:
    batch = collate([sample("a", 2, 5), sample("b", 1, 3)], max_tokens=99, dtype=torch.float32)
    assert batch.token_ids_BL.tolist() == [[10, 11, 12, 13, 14], [10, 11, 12, 0, 0]]
    assert batch.loss_mask_BL.int().tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]
    assert batch.has_feature_BL.int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert batch.features_BLD[..., 0].tolist() == [[1, 2, 3, 4, 0], [1, 2, 0, 0, 0]]
    assert batch.features_BLD.dtype == torch.float32


def test_long_samples_are_cut() -> None:
    batch = collate([sample("a", 2, 9)], max_tokens=6, dtype=torch.float32)
    assert batch.token_ids_BL.shape == (1, 6)
    assert batch.has_feature_BL.all()  # the cut leaves every position with a feature
    assert batch.loss_mask_BL.int().tolist() == [[0, 0, 1, 1, 1, 1]]


def test_a_cut_inside_the_prompt_leaves_nothing_to_learn() -> None:
    assert not collate([sample("a", 8, 9)], max_tokens=6, dtype=torch.float32).loss_mask_BL.any()


def test_an_epoch_sees_every_sample_once() -> None:
    lengths = list(range(23))
    batches = epoch_batches(lengths, 5, seed=1, epoch=0)
    assert sorted(len(batch) for batch in batches) == [3, 5, 5, 5, 5]
    assert sorted(index for batch in batches for index in batch) == list(range(23))
    assert epoch_batches(lengths, 5, seed=1, epoch=0) == batches
    assert epoch_batches(lengths, 5, seed=1, epoch=1) != batches
    assert epoch_batches(lengths, 5, seed=2, epoch=0) != batches


def test_batches_hold_samples_of_like_length() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(20, 250) for _ in range(960)]
    batches = epoch_batches(lengths, 16, seed=3, epoch=0)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)
    means = [sum(lengths[i] for i in batch) / len(batch) for batch in batches]
    assert means != sorted(means)  # short and long batches take turns


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_workers_share_a_batch_without_overlap(world_size: int) -> None:
    batch = [7, 3, 9, 1, 4]
    shares = [worker_share(batch, rank, world_size) for rank in range(world_size)]
    assert sorted(index for share in shares for index in share) == sorted(batch)


def test_a_worker_without_a_sample_still_steps() -> None:
    assert [worker_share([5, 6], rank, 3) for rank in range(3)] == [[5], [6], [5]]


@pytest.mark.parametrize(
    ("num_samples", "fraction", "wanted"), [(100, 0.1, 10), (5, 0.1, 1), (2, 0.01, 1), (1, 0.5, 0), (9, 0.0, 0)]
)
def test_heldout_split(num_samples: int, fraction: float, wanted: int) -> None:
    prompts = [str(n) for n in range(num_samples)]
    training, heldout = split_heldout(prompts, fraction, seed=0)
    assert len(heldout) == wanted
    assert sorted(training + heldout) == list(range(num_samples))
    assert split_heldout(prompts, fraction, seed=0) == (training, heldout)


def test_heldout_is_capped() -> None:
    assert len(split_heldout([str(n) for n in range(10_000)], 0.5, seed=0)[1]) == 64


def test_answers_to_one_prompt_are_on_one_side() -> None:
    prompts = [str(n % 20) for n in range(60)]
    training, heldout = split_heldout(prompts, 0.1, seed=3)
    assert len(heldout) == 2 * 3
    assert sorted(training + heldout) == list(range(60))
    assert not {prompts[i] for i in training} & {prompts[i] for i in heldout}
