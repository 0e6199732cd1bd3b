"""Whether a target finds room, told from its files' headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from eda_service.targets import room
from eda_service.targets.room import free_bytes, lacking_room

CPU = torch.device("cpu")


def test_a_target_needs_its_weights_and_a_quarter(
    target_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = target_dir("llama")
    count = sum(tensor.numel() for tensor in load_file(path / "model.safetensors").values())
    need = int(1.25 * 4 * count)
    monkeypatch.setattr(room, "free_bytes", lambda device: need)
    assert lacking_room(path, dtype=torch.float32, device=CPU) is None
    monkeypatch.setattr(room, "free_bytes", lambda device: need - 1)
    assert lacking_room(path, dtype=torch.bfloat16, device=CPU) is None
    said = lacking_room(path, dtype=torch.float32, device=CPU)
    assert said == f"loading it takes about {need / 1e9:.1f} GB of memory and this machine has {need / 1e9:.1f} GB free"


def test_a_container_has_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total  # no such files: no limit
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 600\nfile 80\nkernel 20\n")
    assert free_bytes(CPU) == 1000 - (700 - 80)
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 1000
