"""The whole loop in this process with the torch backend, and beside it DeepSpeed's as the only worker of a group.

Thirty samples in batches of six: five steps an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny_models import random_eagle3, random_samples
from torch import Tensor
from torch.distributed import HashStore  # type: ignore[attr-defined]
from training_inputs import curve_of, inputs_of, pack_of, write_inputs

from eda_service.config.job import TrainConfig
from eda_service.drafts.draft import Draft
from eda_service.errors import ArtifactCorruptError
from eda_service.storage.runs.state import Diverged, Trained
from eda_service.storage.samples.shards import write_shard
from eda_service.targets.loader import Target
from eda_service.training import loop, simulate, train
from eda_service.training.schedule import has_stopped_improving

TORCH: dict[str, Any] = {"backend": "torch", "num_workers": 1}


class CrashError(Exception):
    """What the process of a worker dies of."""


class OnDisk:
    """Checkpoints in a directory; the process dies once it has kept that of step `dies_at`."""

    def __init__(self, directory: Path, dies_at: int | None = None) -> None:
        self._directory, self._dies_at = directory, dies_at

    def latest(self) -> nullcontext[Path | None]:
        kept = sorted(self._directory.glob("*"), key=lambda path: int(path.name))
        return nullcontext(kept[-1] if kept else None)

    def keep(self, step: int, write: Callable[[Path], None]) -> None:
        made = self._directory / str(step)
        made.mkdir(parents=True)
        write(made)
        if step == self._dies_at:
            raise CrashError


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, tiny_target: Target, make_fitted_draft: Callable[..., Draft]
) -> Path:
    return write_inputs(tmp_path_factory.mktemp("loop"), tiny_target, make_fitted_draft("llama"))


class Measured:
    """In place of simulated acceptance, which random samples leave at 1: a sum over all weights, so that equal numbers
    are equal weights; this training raises it. The weights that it saw last are kept.
    """

    weights: dict[str, Tensor]

    def __call__(self, draft: Draft, *_: object, **__: object) -> float:
        self.weights = {name: p.detach().clone() for name, p in draft.named_parameters()}
        return 10_000.0 - sum(tensor.double().abs().sum().item() for tensor in self.weights.values())


@pytest.fixture(scope="module", autouse=True)
def measured() -> Iterator[Measured]:
    made = Measured()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "simulated_acceptance_length", made)
        yield made


def run(files: Path, name: str, *, dies_at: int | None = None, **changes: Any) -> Trained | Diverged:
    inputs = inputs_of(files, name, **{**TORCH, **changes})
    return train.train(inputs, OnDisk(files / "checkpoints" / name, dies_at))


def losses(files: Path, name: str) -> list[float]:
    return [point.loss for point in curve_of(files, name) if point.simulated_acceptance_length is None]


def acceptance(files: Path, name: str) -> dict[int, float]:
    points = {point.step: point.simulated_acceptance_length for point in curve_of(files, name)}
    return {step: length for step, length in points.items() if length is not None}


NOISY: dict[str, Any] = {"loss": {"unroll_steps": 2, "feature_noise": 0.2}}
"""So that a step's random stream matters."""


@pytest.fixture(scope="module")
def whole(files: Path, measured: Measured) -> tuple[Trained | Diverged, dict[str, Tensor]]:
    """A run that nothing interrupts: its outcome and its last weights."""
    return run(files, "whole", **NOISY), measured.weights


def test_losses_fall_and_the_best_weights_are_kept(
    files: Path, whole: tuple[Trained | Diverged, dict[str, Tensor]]
) -> None:
    outcome, weights = whole
    assert outcome.step == 15
    values = losses(files, "whole")
    assert len(values) == 15
    assert sum(values[-5:]) < 0.97 * sum(values[:5])
    lengths = acceptance(files, "whole")
    assert list(lengths) == [0, 5, 10, 15]
    assert outcome.initial_acceptance == lengths[0]
    assert (outcome.best_step, outcome.best_acceptance) == (15, max(lengths.values()))
    assert outcome.frozen_after == outcome.frozen_before
    for name, tensor in load_file(pack_of(files, "whole")).items():
        assert torch.equal(tensor, weights[name].to(tensor.dtype)), name


@pytest.mark.parametrize("dies_at", [4, 10, 12])
def test_a_run_that_died_ends_with_the_same_weights_to_the_bit(
    files: Path, whole: tuple[Trained | Diverged, dict[str, Tensor]], measured: Measured, dies_at: int
) -> None:
    """In the first epoch, at an epoch's end before it was measured, and in the last one."""
    expected, weights = whole
    name, changes = f"died-{dies_at}", {**NOISY, "checkpoint_every_steps": 2}
    with pytest.raises(CrashError):
        run(files, name, dies_at=dies_at, **changes)
    ended = run(files, name, **changes)
    assert ended.restarts == 1
    compared = ("step", "best_step", "best_acceptance", "initial_acceptance", "frozen_after")
    assert [getattr(ended, each) for each in compared] == [getattr(expected, each) for each in compared]
    assert losses(files, name) == losses(files, "whole")
    assert acceptance(files, name) == acceptance(files, "whole")
    for key, tensor in weights.items():
        assert torch.equal(measured.weights[key], tensor), key
    assert load_file(pack_of(files, name)).keys() == load_file(pack_of(files, "whole")).keys()


def test_the_weights_of_the_best_epoch_stay_when_later_ones_are_worse(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acceptance by a script, highest after the second epoch of four; two worse ones are the end."""
    lengths = iter([1.0, 2.0, 3.0, 2.5, 2.9, 9.0])
    monkeypatch.setattr(loop, "simulated_acceptance_length", lambda *_, **__: next(lengths))
    settings = {"epochs": 6, "checkpoint_every_steps": 5, "early_stopping_patience": 2}
    ended = run(files, "scripted", **settings)
    assert (ended.step, ended.best_step, ended.best_acceptance) == (20, 10, 3.0)
    assert has_stopped_improving(20, 10, steps_per_epoch=5, patience=2)
    kept = torch.load(files / "checkpoints" / "scripted" / "10" / "state.pt")["trained"]
    later = torch.load(files / "checkpoints" / "scripted" / "15" / "state.pt")["trained"]
    pack = load_file(pack_of(files, "scripted"))
    for name, tensor in pack.items():
        assert torch.equal(tensor, kept[name].to(tensor.dtype)), name
    assert any(not torch.equal(tensor, later[name].to(tensor.dtype)) for name, tensor in pack.items())


def test_a_loss_that_leaves_the_numbers_ends_the_run_and_says_where(files: Path) -> None:
    samples = random_samples([12] * 33)
    for sample in samples[1:]:
        assert sample.features is not None
        sample.features[4] = math.inf
    write_shard(files / "infinite", "shard-00000", samples)
    inputs = replace(inputs_of(files, "diverged", **TORCH), data_dir=files / "infinite")
    ended = train.train(inputs, OnDisk(files / "checkpoints" / "diverged"))
    assert ended.failure.startswith("the loss became nan at step 0, where the rate is 0.002; lower")
    assert losses(files, "diverged") == []


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """A process group of this process alone: what Ray Train gives a worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        patch.setenv("DS_ACCELERATOR", "cpu")
        torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        yield
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "changes", "tolerance"),
    [
        ("zero-0", {"zero_stage": 0}, 0.0),
        ("zero-1", {"zero_stage": 1}, 0.0),
        ("parts", {"zero_stage": 1, "micro_batch_size": 2, "weight_decay": 0.1}, 1e-6),
        ("clipped", {"zero_stage": 1, "grad_clip": 0.05}, 1e-6),
    ],
)
def test_deepspeed_alone_in_its_group_takes_the_same_steps(
    group: None, files: Path, measured: Measured, name: str, changes: dict[str, Any], tolerance: float
) -> None:
    """Both have torch's AdamW on float32 weights. Where gradients are clipped or divided, they round in another order:
    DeepSpeed multiplies its one flat gradient by 1 / ((norm + 1e-6) / limit) and weighs each part's loss by the number
    of parts, torch multiplies each tensor by limit / (norm + 1e-6) and adds the parts up.
    """
    run(files, f"torch-{name}", **NOISY, **changes)
    weights = measured.weights
    run(files, f"deepspeed-{name}", **NOISY, **changes, backend="deepspeed")
    assert losses(files, f"deepspeed-{name}") == pytest.approx(losses(files, f"torch-{name}"), rel=tolerance, abs=0.0)
    assert measured.weights.keys() == weights.keys()
    for key, tensor in weights.items():
        torch.testing.assert_close(measured.weights[key], tensor, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize(
    "backend", [{}, {"method": "full_ft"}, {"backend": "deepspeed", "micro_batch_size": 2, "method": "lora"}]
)
def test_epochs_of_repair_follow_the_others_and_go_on_where_they_were(
    group: None, files: Path, whole: tuple[Trained | Diverged, dict[str, Tensor]], measured: Measured, backend: Any
) -> None:
    """Ten steps are those of a run without repair, the last five are not; one that dies among these ends the same."""
    name, changes = f"repair-{len(backend)}", {**NOISY, "epochs": 2, "repair_epochs": 1, **backend}
    ended = run(files, name, **changes)
    weights = measured.weights
    assert ended.step == 15
    assert ended.frozen_after == ended.frozen_before
    plain, repaired = losses(files, "whole"), losses(files, name)
    if not backend:
        assert repaired[:10] == plain[:10]
        assert all(loss != other for loss, other in zip(repaired[10:], plain[10:], strict=True))
    with pytest.raises(CrashError):
        run(files, f"{name}-died", dies_at=12, checkpoint_every_steps=4, **changes)
    run(files, f"{name}-died", checkpoint_every_steps=4, **changes)
    assert losses(files, f"{name}-died") == repaired
    assert all(torch.equal(measured.weights[key], tensor) for key, tensor in weights.items())


@pytest.fixture
def eagle3_files(tmp_path: Path, tiny_target: Target) -> Path:
    """Samples that hold the first state of an EAGLE-3 draft, which has a head of its own."""
    draft = random_eagle3(tiny_target, hidden_size=32, own_embedding=False, draft_vocab_size=112)
    files = write_inputs(tmp_path, tiny_target, draft)
    samples = random_samples(torch.randint(8, 24, (33,), generator=torch.Generator().manual_seed(0)).tolist())
    started = [replace(sample, own_head_in=sample.features, is_started=True) for sample in samples]
    write_shard(files / "data", "shard-00000", started)
    return files


def test_a_head_of_the_drafts_own_trains_in_parts(
    group: None, eagle3_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO-3 leaves a weight empty until its module is called, also where acceptance is measured before any step."""
    monkeypatch.setattr(loop, "simulated_acceptance_length", simulate.simulated_acceptance_length)
    run(eagle3_files, "torch", epochs=1, repair_epochs=1)
    run(eagle3_files, "zero-3", epochs=1, repair_epochs=1, backend="deepspeed", zero_stage=3)
    assert len(losses(eagle3_files, "torch")) == 10
    assert losses(eagle3_files, "zero-3") == pytest.approx(losses(eagle3_files, "torch"), rel=1e-5)


@pytest.mark.parametrize("settings", [{"method": "full_ft"}, {"train_fc": True}])
def test_samples_made_for_a_frozen_fc_train_nothing_else(eagle3_files: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ArtifactCorruptError, match=r"hold 32 numbers a token, of the draft, .* reads 64"):
        run(eagle3_files, "other", **settings)


def test_torch_is_for_one_worker() -> None:
    with pytest.raises(ValidationError, match=r"num_workers is 2.*set train\.num_workers to 1"):
        TrainConfig.model_validate({"backend": "torch"})
