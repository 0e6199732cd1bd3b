"""ZeRO-3 with accumulated gradients, two real workers over gloo: the losses of ZeRO-0 with whole batches, step by step.

Both runs are real Ray Train groups with DeepSpeed over the same samples. A loss follows from all steps before it, so
equal curves are equal training. Whole weights are hashed and written by both.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from training_group import train
from training_inputs import curve_of, pack_of
from waiting import TEST_TIMEOUT_S

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]


def losses(files: Path, name: str) -> list[float]:
    return [point.loss for point in curve_of(files, name) if point.loss]


def test_partitioned_and_accumulated_training_takes_the_same_steps(cluster: None, group_inputs: Path) -> None:
    plain = train(group_inputs, "zero-0", zero_stage=0)
    split = train(group_inputs, "zero-3", zero_stage=3, micro_batch_size=1)
    expected = losses(group_inputs, "zero-0")
    assert len(expected) == plain.step == split.step
    assert sum(expected[-5:]) < 0.97 * sum(expected[:5])
    assert losses(group_inputs, "zero-3") == pytest.approx(expected, rel=1e-3)
    assert split.frozen_after == split.frozen_before == plain.frozen_after
    pack, same_pack = (load_file(pack_of(group_inputs, name)) for name in ("zero-0", "zero-3"))
    assert {name: tensor.shape for name, tensor in same_pack.items()} == {
        name: tensor.shape for name, tensor in pack.items()
    }
