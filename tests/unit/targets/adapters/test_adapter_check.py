"""Adapters that do not fit their base, or would run more than arithmetic, refused from their files alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import write_adapter

from eda_service.config.job import TargetSpec
from eda_service.errors import InputError, TargetIncompatibleError, UnsafeCheckpointError
from eda_service.targets.adapters.check import changed_modules, check_adapter
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.loader import load_target

A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")


@pytest.fixture(scope="module")
def base(target_dir: Callable[[str], Path]) -> Path:
    return target_dir("llama")


@pytest.fixture(scope="module")
def sound(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(base, tmp_path_factory.mktemp("sound") / "adapter", seed=0, r=4)


@pytest.fixture
def adapter(sound: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(sound, tmp_path / "adapter"))


def configure(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change(adapter: Path, **changes: torch.Tensor) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({**load_file(path), **changes}, path)


def test_a_sound_adapter_passes_and_names_its_modules(base: Path, sound: Path) -> None:
    check_adapter(sound, base)
    names = changed_modules(sound)
    assert len(names) == 14
    assert "model.layers.1.mlp.down_proj" in names


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_adapters_of_every_family_pass(family: str, target_dir: Callable[[str], Path], tmp_path: Path) -> None:
    made = write_adapter(target_dir(family), tmp_path / "a", seed=0, r=2, use_dora=True, modules_to_save=["lm_head"])
    check_adapter(made, target_dir(family))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"r": 0}, "allowed are 1 to 1024"),
        ({"r": 1025}, "allowed are 1 to 1024"),
        ({"r": "4"}, "allowed are 1 to 1024"),
        ({"r": True}, "allowed are 1 to 1024"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": 1e9}, "lora_alpha"),
        ({"rank_pattern": {"q_proj": 5000}}, "rank_pattern.q_proj"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern.q_proj"),
        ({"modules_to_save": ["model.layers.0.mlp"]}, "modules_to_save"),
        ({"modules_to_save": "lm_head"}, "modules_to_save"),
    ],
)
def test_settings_out_of_bounds_do_not_fit(base: Path, adapter: Path, changes: dict[str, Any], problem: str) -> None:
    configure(adapter, **changes)
    with pytest.raises(TargetIncompatibleError, match=problem) as caught:
        check_adapter(adapter, base)
    assert caught.value.param == "target.adapter"


@pytest.mark.parametrize(
    "changes",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"layer_replication": [[0, 2], [0, 2]]},
        {"target_parameters": ["x"]},
        {"arrow_config": {"a": 1}},
        {"never_heard_of": "it"},
        {"rank_pattern": {"(a+)+$": 4}},
        {"alpha_pattern": {".*": 4}},
    ],
)
def test_settings_that_do_more_than_arithmetic_are_refused(base: Path, adapter: Path, changes: dict[str, Any]) -> None:
    configure(adapter, **changes)
    with pytest.raises(UnsafeCheckpointError) as caught:
        check_adapter(adapter, base)
    assert caught.value.param == "target.adapter"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({A: torch.zeros(4, 33)}, "is 4 x 33, the base needs 1..1024 x 32"),
        ({A: torch.zeros(1025, 32)}, "is 1025 x 32"),
        ({A: torch.zeros(0, 32)}, "is 0 x 32"),
        ({A: torch.zeros(32)}, "is 32, the base needs"),
        ({B: torch.zeros(31, 4)}, "the base needs 32 x"),
        ({A: torch.zeros(4, 32, dtype=torch.int64)}, "dtype I64"),
        ({A.replace("layers.0", "layers.7"): torch.zeros(4, 32)}, "no such linear"),
        ({"optimizer": torch.zeros(1)}, "no part of a LoRA adapter"),
        ({"base_model.model.lm_head.weight": torch.zeros(3, 3)}, "the base needs 112 x 32"),
        ({"base_model.model.model.norm.weight": torch.zeros(32)}, "no such linear"),
    ],
)
def test_tensors_of_another_base_do_not_fit(
    base: Path, adapter: Path, changes: dict[str, torch.Tensor], problem: str
) -> None:
    change(adapter, **changes)
    with pytest.raises(TargetIncompatibleError, match=problem):
        check_adapter(adapter, base)


def test_deep_or_large_settings_are_refused(base: Path, adapter: Path) -> None:
    for text in ("[" * 100_000, '{"a": "' + "x" * (1 << 20) + '"}', "[]"):
        (adapter / "adapter_config.json").write_text(text)
        with pytest.raises(InputError):
            resolve_target(TargetSpec(model=str(base), adapter=str(adapter)))


@pytest.mark.timeout(60)
def test_a_regular_expression_over_modules_is_not_run(base: Path, adapter: Path) -> None:
    """PEFT would match it against every module's name, which for this one takes for ever; the result is the same."""
    spec = TargetSpec(model=str(base), adapter=str(adapter), dtype="float32")
    wanted = load_target(spec).head_weight
    configure(adapter, target_modules=r"((\w+\.?)+)+#", exclude_modules=r"((\w+\.?)+)+#")
    assert torch.equal(load_target(spec).head_weight, wanted)
