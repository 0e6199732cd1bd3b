"""Every process that holds a target goes where the config's `device` says, and says so where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from api.endpoint.engines.base_group import BaseGroup
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import InputError
from eda_service.pipeline.evaluate import EvaluationRun
from eda_service.pipeline.generation_actor import ShardWriter, WriterSettings
from eda_service.pipeline.prepare import prepare_generation
from eda_service.pipeline.validate import _look
from eda_service.raycluster.resources import require_gpus, reserved_device
from eda_service.storage.runs.run import RunDir

HOLDERS: dict[str, Callable[[AdaptConfig, Path], Any]] = {
    "validate": lambda config, _: _look._function(config),
    "prepare": lambda config, path: prepare_generation(config, path, with_reference=False),
    "generate": lambda config, path: ShardWriter(WriterSettings(config, path / "generate")),
    "evaluate": lambda config, path: EvaluationRun(RunDir(path), config),
    "serve": lambda config, _: BaseGroup(config.target, config.device),
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_a_stage_without_the_gpu_it_is_told_to_use_is_refused(
    holder: Callable[[AdaptConfig, Path], Any],
    new_target_dir: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    directory = new_target_dir(tmp_path / "target", "llama")
    config = AdaptConfig.model_validate(
        {"target": {"model": str(directory)}, "device": "cuda", "train": {"use_gpu": True}}
    )
    with pytest.raises(InputError, match="device is cuda and this process sees 0"):
        holder(config, tmp_path)


def test_a_target_stays_on_the_cpu_where_a_gpu_is_seen(
    new_target_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spec = TargetSpec(model=str(new_target_dir(tmp_path / "target", "llama")), dtype="float32")
    assert BaseGroup(spec, "cpu").target.device.type == "cpu"


def test_a_replica_uses_the_gpu_that_ray_reserved_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reserved_device() == "auto"
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    for given, wanted in (([], "auto"), ([0], "cuda")):
        monkeypatch.setattr(ray, "get_gpu_ids", lambda given=given: given)
        assert reserved_device() == wanted


def test_gpus_that_a_ray_of_our_own_has_not_are_refused_and_a_cluster_s_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    assert require_gpus(0) is None
    with pytest.raises(InputError, match=r"asks for 1 GPU for each process and Ray finds 0 .* train\.use_gpu to false"):
        require_gpus(1)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert "waiting for a machine with GPUs" in str(require_gpus(1))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    assert require_gpus(1) is None
