"""What can be shown of the plugins without their engines (with vLLM: `tests/vllm`).

Shapes: N inputs of the FFN, D hidden.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from eda_service.config.job import Mix
from eda_service.drafts.draft_config import PrivateConfig
from eda_service.drafts.expert import Expert
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.export.files.contents import SGLANG_PLUGIN, VLLM_PLUGIN
from eda_service.export.files.eda_config import ExportedGate
from eda_service.export.parallel_ffn import ParallelFFN
from eda_service.export.vllm_plugin import ARCHITECTURE
from tests.unit.export.test_eda_config import config

ROOT = Path(__file__).resolve().parents[3]


def rank_of(expert: Expert, rank: int, size: int) -> Expert:
    """One tensor parallel rank's part of an expert: rows of gate and up, columns of down."""
    width = expert.width // size
    rows = slice(rank * width, (rank + 1) * width)
    part = Expert(expert.gate_proj.in_features, width)
    part.gate_proj.weight = nn.Parameter(expert.gate_proj.weight[rows])
    part.up_proj.weight = nn.Parameter(expert.up_proj.weight[rows])
    part.down_proj.weight = nn.Parameter(expert.down_proj.weight[:, rows])
    return part


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("mix", "private_width"), [(Mix.SOFTMAX, 24), (Mix.SOFTMAX, 96), (Mix.SUM, 24)])
def test_ranks_add_up_to_the_whole(mix: Mix, private_width: int, size: int) -> None:
    """Each rank mixes its partial outputs; their sum is the module that was trained."""
    torch.manual_seed(0)
    whole = SharedPrivateFFN(Expert(64, 96), hidden_size=64, private_width=private_width, mix=mix)
    for parameter in whole.parameters():
        nn.init.normal_(parameter, std=0.3)
    made = config(private_width=private_width).model_copy(
        update={
            "gate": ExportedGate(mix.value),
            "private": PrivateConfig(private_width=private_width, mix=mix),
            "scale": whole.scale,
        }
    )
    hidden_ND, total_ND = torch.randn(7, 64), torch.zeros(7, 64)
    experts, sums = {"shared": whole.shared, "private": whole.private}, Mock(side_effect=lambda partial: partial)
    for rank in range(size):
        part = ParallelFFN(made, lambda name, _, rank=rank: rank_of(experts[name], rank, size), sums)
        if whole.gate is not None:
            assert part.gate is not None
            part.gate.load_state_dict(whole.gate.state_dict())
        total_ND += part(hidden_ND, forward_batch=None)
    assert sums.call_count == size
    torch.testing.assert_close(total_ND, whole(hidden_ND), rtol=1e-4, atol=1e-4)


def test_parameters_have_the_exports_names() -> None:
    part = ParallelFFN(config(), lambda _, width: Expert(64, width), lambda x: x)
    whole = SharedPrivateFFN(Expert(64, 96), hidden_size=64, private_width=24, mix=Mix.SOFTMAX)
    shapes = {name: parameter.shape for name, parameter in whole.named_parameters()}
    assert {name: parameter.shape for name, parameter in part.named_parameters()} == shapes


def test_vllm_finds_a_light_entry_point() -> None:
    """vLLM loads every plugin in each of its processes, so importing ours must not bring torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    value = project["entry-points"]["vllm.general_plugins"]["eda"]
    assert EntryPoint("eda", value, "vllm.general_plugins").load().__name__ == "register"
    code = f"import sys, {value.split(':')[0]}; print(sorted({{'torch', 'transformers', 'ray'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_architectures_are_the_classes_names() -> None:
    """vLLM keeps a name that begins with Eagle; SGLang registers a class under its own name."""
    assert ARCHITECTURE == VLLM_PLUGIN
    folder = ROOT / "eda_service" / "export"
    assert f"class {VLLM_PLUGIN}(" in (folder / "vllm_model.py").read_text()
    assert f"EntryClass = {SGLANG_PLUGIN}\n" in (folder / "sglang_models" / "eda_eagle.py").read_text()
