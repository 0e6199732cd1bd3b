"""What a job is said to need, against numbers worked out by hand."""

from __future__ import annotations

import time

import pytest
import torch

from eda_service.config import AdaptConfig, DatasetSpec, SelectionConfig, SelfGenConfig, TargetSpec, TrainConfig
from eda_service.distributed.estimate import (
    disk_need_bytes,
    estimate_time,
    measure_flops,
    num_samples,
    num_train_steps,
)
from eda_service.model.draft_config import DraftConfig

DRAFT = DraftConfig(
    hidden_size=10,
    num_heads=1,
    num_kv_heads=1,
    head_dim=10,
    expert_width=20,
    vocab_size=100,
    rope_theta=1e4,
    rms_norm_eps=1e-5,
)


def job(**changes: object) -> AdaptConfig:
    settings = {
        "target": TargetSpec(model="m"),
        "dataset": DatasetSpec(num_prompts=100),
        "selfgen": SelfGenConfig(max_prompt_tokens=30, max_new_tokens=20),
        "selection": SelectionConfig(keep_fraction=0.5),
        "train": TrainConfig(epochs=1, max_tokens=64),
    }
    return AdaptConfig.model_validate({**settings, **changes})


def test_disk_is_hidden_states_twice_over_and_the_targets_ends() -> None:
    # 100 prompts x 50 tokens x 10 features x 2 bytes, and half of it again; embedding and head of 100 x 10 x 2 bytes
    assert disk_need_bytes(job(), hidden_size=10, vocab_size=100) == 150_000 + 4_000


def test_more_work_or_a_slower_machine_takes_longer() -> None:
    def seconds(config: AdaptConfig, flops_per_s: float = 1e6) -> float:
        return estimate_time(config, num_target_parameters=1000, draft=DRAFT, flops_per_s=flops_per_s).total

    start = seconds(job(), flops_per_s=1e30)
    work = seconds(job()) - start
    assert work > 0
    assert seconds(job(), flops_per_s=5e5) - start == pytest.approx(2 * work)
    assert seconds(job(dataset=DatasetSpec(num_prompts=200))) - start > work
    assert seconds(job(train=TrainConfig(epochs=2, max_tokens=64))) - start > work


def test_steps_are_those_of_the_kept_samples() -> None:
    # 100 prompts, 16 held out for the evaluation; half of 84 kept, 4 of them held out; 38 in batches of 16, one pass
    assert num_samples(job()) == 84
    assert num_train_steps(job()) == 3
    assert num_samples(job(selfgen=SelfGenConfig(answers_per_prompt=3))) == 3 * 84
    assert num_train_steps(job(train=TrainConfig(epochs=2, batch_size=8, max_tokens=64))) == 2 * 5


def test_the_rate_is_that_of_this_machine() -> None:
    rate = measure_flops(torch.float32, torch.device("cpu"))
    left, right = torch.ones(256, 2048), torch.ones(2048, 2048)
    started = time.perf_counter()
    left @ right
    once = 2 * 256 * 2048 * 2048 / (time.perf_counter() - started)
    assert once / 20 < rate < once * 20
