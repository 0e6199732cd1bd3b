"""Exports that a service makes by itself: once, by what went into them, and again where they are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapted_packs import publish_adapted
from safetensors.torch import load_file
from tiny_models import write_adapter
from transformers import AutoModelForCausalLM

from eda_service.config.job import TargetSpec, TrainConfig
from eda_service.errors import TargetIncompatibleError
from eda_service.export.cache import exports_dir, vllm_draft, whole_target
from eda_service.export.files.directory import WEIGHTS, read_export
from eda_service.export.files.eda_config import ExportForm
from eda_service.targets.loader import Target, load_target


@pytest.fixture
def pack(tmp_path: Path, base_draft_dir: Path, tiny_target: Target) -> str:
    home, train = base_draft_dir.parents[2], TrainConfig(private_width_fraction=0.5)
    return publish_adapted(home, base_draft_dir, tiny_target, train, name=tmp_path.name)


def test_a_target_without_an_adapter_is_its_own_directory(tiny_target: Target, tmp_path: Path) -> None:
    found = whole_target(tiny_target.spec, tmp_path)
    assert str(found.directory) == tiny_target.spec.model
    assert found.fingerprint == tiny_target.fingerprint
    assert not exports_dir(tmp_path).exists()


def test_an_adapter_is_merged_once(target_dir: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = write_adapter(target_dir("llama"), tmp_path / "lora", seed=1)
    spec = TargetSpec(model=str(target_dir("llama")), adapter=str(adapter), dtype="float32")
    made = whole_target(spec, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(made.directory, dtype=torch.float32)
    own = load_target(spec)
    torch.testing.assert_close(merged.get_input_embeddings().weight, own.embed.weight)
    name = "model.layers.0.self_attn.q_proj.weight"
    base = AutoModelForCausalLM.from_pretrained(target_dir("llama"), dtype=torch.float32)
    assert not torch.equal(merged.state_dict()[name], base.state_dict()[name])
    written_at = made.directory.stat().st_mtime_ns
    assert whole_target(spec, tmp_path) == made
    assert made.directory.stat().st_mtime_ns == written_at


def test_a_draft_is_exported_once_and_again_when_damaged(pack: str, base_draft_dir: Path, tiny_target: Target) -> None:
    home = base_draft_dir.parents[2]
    target = whole_target(tiny_target.spec, home)

    def export(form: ExportForm = ExportForm.PLUGIN) -> Path:
        return vllm_draft(pack, target, tiny_target.spec, form, num_draft_tokens=3, home=home)

    directory = export()
    weights = directory / WEIGHTS
    written_at = weights.stat().st_mtime_ns
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # not a view of the damaged file
    assert export() == directory
    assert weights.stat().st_mtime_ns == written_at
    weights.write_bytes(weights.read_bytes()[:-1])
    assert export() == directory
    assert read_export(directory)[0].source == pack
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(weights).items())


def test_a_draft_of_another_target_is_refused(
    pack: str, base_draft_dir: Path, new_target_dir: Callable[..., Path], tmp_path: Path
) -> None:
    spec = TargetSpec(model=str(new_target_dir(tmp_path / "other", "llama", seed=5)), dtype="float32")
    with pytest.raises(TargetIncompatibleError):
        vllm_draft(
            pack,
            whole_target(spec, tmp_path),
            spec,
            ExportForm.PLUGIN,
            num_draft_tokens=3,
            home=base_draft_dir.parents[2],
        )
