"""What a plugin refuses before it loads a weight: tensor parallel sizes and targets that do not fit."""

from __future__ import annotations

import pytest
from pack_files import fingerprint

from eda_service.config.job import Mix
from eda_service.drafts.draft_config import Eagle1Config, PrivateConfig
from eda_service.errors import TargetIncompatibleError
from eda_service.export.files.eda_config import Destination, EdaConfig, ExportedGate, ExportForm


def config(*, num_heads: int = 8, num_kv_heads: int = 4, width: int = 96, private_width: int = 24) -> EdaConfig:
    """An export with these sizes."""
    return EdaConfig(
        source="pack@3",
        method="eda",
        base_draft="base@1",
        source_sha256={},
        weights_sha256="w",
        destination=Destination.VLLM,
        form=ExportForm.PLUGIN,
        gate=ExportedGate.SOFTMAX,
        draft=Eagle1Config(
            hidden_size=64,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=8,
            expert_width=width,
            vocab_size=100,
            rope_theta=1e4,
            rms_norm_eps=1e-5,
        ),
        private=PrivateConfig(private_width=private_width, mix=Mix.SOFTMAX),
        scale=2.0,
        draft_vocab_size=None,
        verifier=fingerprint(hidden_size=64, vocab_size=100),
        calibration=None,
    )


@pytest.mark.parametrize(
    ("sizes", "fitting"),
    [
        ({}, {1, 2, 4, 8}),
        ({"num_kv_heads": 2}, {1, 2, 4, 8}),  # more ranks than key/value heads: they are repeated
        ({"num_heads": 9, "num_kv_heads": 3}, {1, 3}),
        ({"private_width": 20}, {1, 2, 4}),
        ({"width": 90}, {1, 2}),
    ],
)
def test_sizes_that_divide_heads_and_experts(sizes: dict[str, int], fitting: set[int]) -> None:
    for size in fitting:
        config(**sizes).check_tensor_parallel(size)
    for size in set(range(1, 10)) - fitting:
        with pytest.raises(TargetIncompatibleError, match=f"over {size} tensor parallel ranks") as caught:
            config(**sizes).check_tensor_parallel(size)
        assert caught.value.param == "tensor_parallel_size"
        assert caught.value.message.endswith(f"use a size of {', '.join(map(str, sorted(fitting)))}")


@pytest.mark.parametrize(("hidden_size", "vocab_size"), [(32, 100), (64, 101)])
def test_another_target_is_refused(hidden_size: int, vocab_size: int) -> None:
    config().check_verifier(hidden_size=64, vocab_size=100)
    with pytest.raises(TargetIncompatibleError, match=r"made for org/model \(hidden size 64, 100 tokens\)"):
        config().check_verifier(hidden_size=hidden_size, vocab_size=vocab_size)


def test_the_block_survives_json() -> None:
    made = config()
    assert EdaConfig.model_validate_json(made.model_dump_json()) == made
