"""What a job is said to need, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from tiny_draft_kind import TinyConfig, tiny_kind

from eda_service.config.job import (
    AdaptConfig,
    DatasetSpec,
    SelectionConfig,
    Selector,
    SelfGenConfig,
    TargetSpec,
    TrainConfig,
)
from eda_service.planning.constants import CORE, DEVICES
from eda_service.planning.estimate import disk_need_bytes, num_samples, num_train_steps
from eda_service.planning.plan import make_plan, measuring_s
from eda_service.planning.shapes import draft_of
from eda_service.planning.workload import expected_lengths, workload
from eda_service.targets.files.shape import ModelShape


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
    draft = draft_of(ModelShape(10, 80, 2, 2, 1, 10, 100, 1e4))
    # 100 prompts x 50 tokens x 10 features x 2 bytes, and half of it again; embedding and head of 100 x 10 x 2 bytes
    assert disk_need_bytes(job(), draft) == 150_000 + 4_000
    # selection that keeps everything copies everything, whatever keep_fraction says
    everything = job(selection=SelectionConfig(method=Selector.ALL, keep_fraction=0.5))
    assert disk_need_bytes(everything, draft) == 200_000 + 4_000
    # a kind that reads three layers, each of 10, and leaves the head's state to the loss
    with tiny_kind():
        wide = TinyConfig(**draft.model_dump(), layers=(0, 1, 2), draft_vocab_size=50)
    with_fc = job(train=TrainConfig(epochs=1, max_tokens=64, train_fc=True))
    assert disk_need_bytes(with_fc, wide) == 600_000 + 4_000
    # where nothing trains what reads the layers, its result of 10 is kept instead of them
    assert disk_need_bytes(job(), wide) == 300_000 + 4_000


@pytest.mark.parametrize(("method", "trainable"), [("eda", 1960), ("retrain", 6820), ("full_ft", 6820)])
def test_a_checkpoint_has_what_its_method_trains(method: str, trainable: int) -> None:
    # D 20, N 2, H 1, d 10, m 80: fc 2x20x20, attention 2x20x20 + 2x20x10, norm 20, experts 3x20x80; private 3x20x32
    shape = ModelShape(20, 80, 2, 2, 1, 10, 100, 1e4)
    config = job(train=TrainConfig(method=method, private_width_fraction=0.4, train_fc=False, epochs=1, max_tokens=64))
    plan = make_plan(config, shape, CORE, expected_lengths(config))
    assert plan.stage("train").disk_bytes == 2 * 14 * trainable  # two checkpoints: one bfloat16, three float32


def test_steps_are_those_of_the_kept_samples() -> None:
    # 100 prompts, 16 held out for the evaluation; half of 84 kept, 4 of them held out; 38 in batches of 16, one pass
    assert num_samples(job()) == 84
    assert num_train_steps(job()) == 3
    assert num_samples(job(selfgen=SelfGenConfig(answers_per_prompt=3))) == 3 * 84
    assert num_train_steps(job(train=TrainConfig(epochs=2, batch_size=8, max_tokens=64))) == 2 * 5


@pytest.mark.parametrize(("method", "num_heads"), [("draft_loss", 2), ("draft_rejections", 1)])
def test_measuring_samples_with_the_draft_is_planned(method: str, num_heads: int) -> None:
    # The draft of the test above has 6,820 parameters. 84 samples of 30 + 20 tokens; at each of the answer's, 100 rows
    # of 20 numbers are multiplied by the draft's state and, where distributions are compared, by the target's.
    shape = ModelShape(20, 80, 2, 2, 1, 10, 100, 1e4)
    config = job(selection=SelectionConfig(method=method))
    work, plain = (workload(each, shape, expected_lengths(each)) for each in (config, job()))
    assert work.selector_flops == 2 * 6820 * 50 + num_heads * 2 * 20 * 100 * 20
    assert (plain.selector_flops, plain.selector_parameters) == (0, 0)
    seconds = 84 * work.selector_flops / (2 * CORE.prefill_flops_per_s)
    assert measuring_s(config, CORE, work) == pytest.approx(seconds)
    assert (work.reference.tokens, plain.reference.tokens) == (0, 48 * 64)  # no general prompts are answered

    def planned(asked: AdaptConfig) -> float:
        return make_plan(asked, shape, CORE, expected_lengths(asked)).stage("generate").memory_bytes

    assert planned(config) - planned(job()) == 2 * 6820
    # vLLM holds the GPU: the draft computes on the actor's two threads.
    beside = job(selection=SelectionConfig(method=method), target=TargetSpec(model="m", engine="vllm"))
    assert measuring_s(beside, DEVICES["h100"], work) == pytest.approx(seconds)
    assert measuring_s(config, DEVICES["h100"], work) < seconds / 100
