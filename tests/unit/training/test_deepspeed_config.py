"""DeepSpeed gets what the config says of precision."""

from __future__ import annotations

from typing import Literal

import pytest

from eda_service.config.job import TrainConfig
from eda_service.training.backends.deepspeed import deepspeed_config


@pytest.mark.parametrize(
    ("use_gpu", "precision", "wanted"),
    [
        (True, "auto", True),
        (True, "bfloat16", True),
        (True, "float32", False),
        (False, "auto", False),  # on a CPU weights stay float32 and the products are cast
    ],
)
def test_weights_are_bfloat16_on_a_gpu_unless_float32_is_asked_for(
    use_gpu: bool, precision: Literal["auto", "float32", "bfloat16"], wanted: bool
) -> None:
    made = deepspeed_config(TrainConfig(use_gpu=use_gpu, precision=precision), world_size=1)
    assert made["bf16"] == {"enabled": wanted}
