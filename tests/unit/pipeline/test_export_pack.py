"""What the job of an export writes: the files of `eda export`, and a command that can be typed on another machine."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapted_packs import publish_adapted
from tiny_models import write_adapter

from eda_service.config.export_forms import Destination, ExportForm
from eda_service.config.job import TargetSpec, TrainConfig
from eda_service.config.tasks import ExportConfig
from eda_service.errors import TargetIncompatibleError
from eda_service.export.calibration import CalibrationSettings
from eda_service.export.export import ExportRequest, export_draft
from eda_service.pipeline import export_pack
from eda_service.pipeline.export_pack import write_export
from eda_service.records import Stage
from eda_service.storage.files import verify_files
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Succeeded
from eda_service.targets.loader import Target, load_target
from eda_service.task_records import ExportRecord


@pytest.fixture
def pack(home: Path, base_draft_dir: Path, tiny_target: Target) -> str:
    return publish_adapted(home, base_draft_dir, tiny_target, TrainConfig(), vocab_W=torch.arange(0, 112, 2))


def run_of(home: Path) -> RunDir:
    run = RunDir.of_job("export_1", home)
    run.root.mkdir(parents=True)
    return run


def config_of(pack: str, spec: TargetSpec, **changes: Any) -> ExportConfig:
    fields: dict[str, Any] = {"to": Destination.VLLM, "form": ExportForm.DENSE, "num_prompts": 8}
    return ExportConfig(target=spec, pack=pack, **(fields | changes))


def test_the_files_are_those_of_the_command(home: Path, pack: str, tiny_target: Target, tmp_path: Path) -> None:
    run, spec = run_of(home), tiny_target.spec
    fields = write_export(run, config_of(pack, spec, num_draft_tokens=4))
    settings = CalibrationSettings(num_prompts=8, num_draft_tokens=4)
    request = ExportRequest(
        pack, Destination.VLLM, ExportForm.DENSE, tmp_path / "out", target=spec, calibration=settings
    )
    by_command = export_draft(request, home=home)
    files = run.root / "export" / "files"
    for name in ("config.json", "model.safetensors"):
        assert (files / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    verify_files(run.root / "export", fields.files)
    assert {entry.path for entry in fields.files} == {
        f"files/{name}" for name in ("SERVE.txt", "config.json", "model.safetensors")
    }
    calibration = by_command.eda_config.calibration
    assert calibration is not None
    assert fields.acceptance_length == calibration.acceptance_length
    assert fields.exported_acceptance_length == calibration.exported_acceptance_length
    assert (
        write_export(run, config_of(pack, spec, num_draft_tokens=4)).files == fields.files
    )  # an attempt after another


def test_the_command_names_no_place_of_this_machine(home: Path, pack: str, tiny_target: Target, tmp_path: Path) -> None:
    run, spec = run_of(home), tiny_target.spec
    fields = write_export(run, config_of(pack, spec, form=ExportForm.PLUGIN))
    words = shlex.split(fields.serve_command)
    assert words[:4] == ["vllm", "serve", "TARGET", "--speculative-config"]
    assert json.loads(words[4])["model"] == "adapted-1-vllm-plugin"
    assert fields.needs[0] == f"TARGET is the directory of {Path(spec.model).name} on that machine"
    told = (run.root / "export" / "files" / "SERVE.txt").read_text()
    assert fields.serve_command in told.splitlines()
    assert all(need in told.splitlines() for need in fields.needs)
    assert str(Path(spec.model).parent) not in told + fields.serve_command
    assert str(tmp_path) not in told


def test_a_target_with_an_adapter_is_a_blank(
    home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    model = Path(tiny_target.spec.model)
    spec = TargetSpec(model=str(model), adapter=str(write_adapter(model, tmp_path / "lora", seed=1)), dtype="float32")
    pack = publish_adapted(home, base_draft_dir, load_target(spec), TrainConfig())
    fields = write_export(run_of(home), config_of(pack, spec, to=Destination.SGLANG))
    assert "--model-path MERGED_TARGET " in fields.serve_command
    assert fields.needs[0].startswith(f"MERGED_TARGET is a directory with {model.name} with the adapter lora, merged; ")
    assert str(tmp_path) not in fields.needs[0]


def test_another_target_leaves_nothing(home: Path, pack: str, tmp_path: Path, new_target_dir: Any) -> None:
    other = TargetSpec(model=str(new_target_dir(tmp_path / "other", "llama", seed=5)), dtype="float32")
    run = run_of(home)
    with pytest.raises(TargetIncompatibleError, match="was made for another target"):
        write_export(run, config_of(pack, other))
    assert list((run.root / "export").iterdir()) == []


def test_a_gpu_is_not_asked_for() -> None:
    with pytest.raises(ValueError, match="an export computes on the CPU"):
        ExportConfig(target=TargetSpec(model="org/model"), pack="math@1", to=Destination.HF, use_gpu=True)


def test_the_job_ends_with_its_record_and_result(
    home: Path, pack: str, tiny_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but Ray, in whose place this process is; a pack without a version is the newest."""
    monkeypatch.setattr(export_pack, "connect", lambda: None)
    monkeypatch.setattr(export_pack, "_export", SimpleNamespace(remote=lambda root, config: (root, config)))
    monkeypatch.setattr(export_pack.ray, "get", lambda task: write_export(RunDir(task[0]), task[1]))
    run, config = run_of(home), config_of("adapted", tiny_target.spec, form=ExportForm.PLUGIN)
    run.create(config, origin="ray")
    record = export_pack.export_pack(run, config)
    assert record.pack == pack
    assert run.read_record(ExportRecord, Stage.EXPORT) == record
    result = run.read_result()
    assert isinstance(result, Succeeded)
    assert result.result == run.job_id
