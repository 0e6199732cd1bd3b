"""LoRA adapters beside one base: each row as peft's merged model gives it, and no row changed by another.

Oracle: peft's `merge_and_unload` in float32 on transformers' own model.

Shapes: B rows, L positions, D hidden.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import LINEARS, write_adapter
from transformers import AutoModelForCausalLM, PreTrainedModel

from eda_service.config.job import TargetSpec
from eda_service.errors import AdapterUnstackableError, ResourceError, TargetIncompatibleError
from eda_service.targets.adapters.adapter import Adapter, read_adapter
from eda_service.targets.loader import Target, load_target

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
SETTINGS: dict[str, dict[str, Any]] = {
    "all": {"r": 4, "lora_alpha": 8, "target_modules": LINEARS},
    "rslora": {"r": 6, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": LINEARS,
        "rank_pattern": {"layers.1.mlp.up_proj": 9, "k_proj": 2},
        "alpha_pattern": {"v_proj": 3},
        "init_lora_weights": "gaussian",
    },
}


def merged_model(model_dir: Path, adapter: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager")
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return merged.eval().requires_grad_(False)


def read(directory: Path) -> Adapter:
    return read_adapter(directory, dtype=torch.float32, device=torch.device("cpu"))


def token_ids(rows: int, length: int = 9) -> torch.Tensor:
    return torch.randint(3, 112, (rows, length), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def features(target: Target, ids_BL: torch.Tensor, adapters: list[str | None] | None) -> torch.Tensor:
    rows = len(ids_BL)
    return target.forward(ids_BL, target.new_cache(rows, 32), [0] * rows, adapters=adapters).head_in


@pytest.fixture
def target(tmp_path: Path, new_target_dir: Callable[..., Path]) -> Target:
    """A tiny Llama of the test's own, because its bank changes."""
    return load_target(TargetSpec(model=str(new_target_dir(tmp_path / "model", "llama")), dtype="float32"))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_equals_its_own_merged_model(
    family: str, tmp_path: Path, target_dir: Callable[[str], Path], reference_model: Callable[[str], PreTrainedModel]
) -> None:
    """Three adapters of different settings and the base itself in one forward."""
    model_dir = target_dir(family)
    target = load_target(TargetSpec(model=str(model_dir), dtype="float32"))
    assert target.adapters is not None
    paths = [write_adapter(model_dir, tmp_path / name, seed=i, **SETTINGS[name]) for i, name in enumerate(SETTINGS)]
    keys: list[str | None] = [target.adapters.acquire(read(path)) for path in paths]
    ids_BL = token_ids(4)
    got_BLD = features(target, ids_BL, [*keys, None])
    references = [merged_model(model_dir, path) for path in paths] + [reference_model(family)]
    for row, reference in enumerate(references):
        wanted_LD = reference.model(ids_BL[row : row + 1]).last_hidden_state[0]
        torch.testing.assert_close(got_BLD[row], wanted_LD, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(got_BLD[0], features(target, ids_BL, None)[0], atol=0.05)  # the adapters do something


def test_a_row_s_bits_depend_neither_on_other_rows_nor_on_other_adapters(tmp_path: Path, target: Target) -> None:
    bank, model_dir = target.adapters, tmp_path / "model"
    assert bank is not None
    paths = [write_adapter(model_dir, tmp_path / str(i), seed=i, r=4 + 5 * i) for i in range(4)]
    ids_BL, keys = token_ids(5), []
    plain_BLD = features(target, ids_BL, None)
    alone = []
    for path in paths:
        key = bank.acquire(read(path))
        alone.append(features(target, ids_BL[:1], [key]))
        bank.release(key)
    for path in paths:
        keys.append(bank.acquire(read(path)))
    for key, wanted in zip(keys, alone, strict=True):
        mixed = features(target, ids_BL[[0, 1, 2, 3, 4]], [key, None, keys[0], keys[3], keys[1]])
        assert torch.equal(mixed[:1], wanted)
        assert torch.equal(mixed[1], plain_BLD[1])
    bank.release(keys[1])  # what is behind it moves
    assert torch.equal(features(target, ids_BL[:1], [keys[3]]), alone[3])
    for key in (keys[0], keys[2], keys[3]):
        bank.release(key)
    assert torch.equal(features(target, ids_BL, [None] * 5), plain_BLD)


def test_an_adapter_is_held_once_until_its_last_user_goes(tmp_path: Path, target: Target) -> None:
    bank, path = target.adapters, write_adapter(tmp_path / "model", tmp_path / "a", seed=0, **SETTINGS["all"])
    assert bank is not None
    first = bank.acquire(read(path))
    size = bank.size_bytes(first)
    assert bank.acquire(read(path)) == first
    assert bank.size_bytes(first) == size > 0
    ids_BL = token_ids(1)
    wanted = features(target, ids_BL, [first])
    bank.release(first)
    assert torch.equal(features(target, ids_BL, [first]), wanted)
    bank.release(first)
    with pytest.raises(KeyError):
        features(target, ids_BL, [first])


def test_rank_and_alpha_that_are_left_out_are_peft_s_own(tmp_path: Path, target_dir: Callable[[str], Path]) -> None:
    path = write_adapter(target_dir("llama"), tmp_path, seed=0, r=8, lora_alpha=8)
    said = read(path)
    settings = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    del settings["r"], settings["lora_alpha"]
    (path / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for place, (a_rI, b_Or) in read(path).updates.items():
        assert torch.equal(a_rI, said.updates[place][0])
        assert torch.equal(b_Or, said.updates[place][1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"an_option_of_tomorrow": 3}, "an_option_of_tomorrow"),
    ],
)
def test_what_is_more_than_lora_is_refused_with_the_reason(
    change: dict[str, Any], named: str, tmp_path: Path, target_dir: Callable[[str], Path]
) -> None:
    path = write_adapter(target_dir("llama"), tmp_path / "a", seed=0, **SETTINGS["all"])
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(AdapterUnstackableError, match=named):
        read(path)


def test_an_update_of_the_head_or_the_embedding_is_refused(tmp_path: Path, target_dir: Callable[[str], Path]) -> None:
    path = write_adapter(target_dir("qwen2"), tmp_path / "a", seed=0, r=2, target_modules=["q_proj"])
    tensors = load_file(path / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.ones(2, 32)
    tensors["base_model.model.lm_head.lora_B.weight"] = torch.ones(112, 2)
    save_file(tensors, path / "adapter_model.safetensors")
    with pytest.raises(AdapterUnstackableError, match="lm_head"):
        read(path)


@pytest.mark.parametrize("problem", ["without", "not finite", "x 31"])
def test_a_spoilt_adapter_is_refused(problem: str, tmp_path: Path, target: Target) -> None:
    path = write_adapter(tmp_path / "model", tmp_path / "a", seed=0, **SETTINGS["all"])
    tensors = load_file(path / "adapter_model.safetensors")
    name = next(iter(sorted(tensors)))  # A of layer 0's down_proj
    if problem == "without":
        del tensors[name]
    elif problem == "not finite":
        tensors[name][0, 0] = float("inf")
    else:
        tensors[name] = tensors[name][:, :31].contiguous()
    save_file(tensors, path / "adapter_model.safetensors")
    bank = target.adapters
    assert bank is not None
    with pytest.raises(TargetIncompatibleError, match=problem):
        bank.acquire(read(path))


def test_too_many_ranks_are_refused_and_leave_the_bank_as_it_was(tmp_path: Path, target: Target) -> None:
    bank = target.adapters
    assert bank is not None
    paths = [
        write_adapter(tmp_path / "model", tmp_path / str(i), seed=i, r=520, target_modules=["q_proj"]) for i in (0, 1)
    ]
    key = bank.acquire(read(paths[0]))
    wanted = features(target, token_ids(1), [key])
    with pytest.raises(ResourceError, match="1024"):
        bank.acquire(read(paths[1]))
    assert torch.equal(features(target, token_ids(1), [key]), wanted)
