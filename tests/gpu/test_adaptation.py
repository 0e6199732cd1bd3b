"""A whole adaptation with `train.use_gpu`: Ray gives every stage the GPU, DeepSpeed trains in bfloat16 over NCCL."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_job import CONFIG, write_prompts
from tiny_models import register_draft

from eda_service.drafts.draft import Draft
from eda_service.records import DraftCheckpoint, EvalReport, Stage
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import Target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_job_runs_to_its_end(
    zero_stage: int,
    device: torch.device,
    target_dir: Callable[[str], Path],
    target_on: Callable[[str], Target],
    make_fitted_draft: Callable[[str], Draft],
    home: Path,
) -> None:
    target = target_on("llama")
    register_draft(home, make_fitted_draft("llama"), target)
    config: dict[str, Any] = copy.deepcopy(CONFIG)
    config["target"] = {"model": str(target_dir("llama"))}
    config["base_draft"] = "tiny@1"
    config["dataset"] = write_prompts(home / "prompts.jsonl")
    config["selfgen"] |= {"num_actors": 1}
    config["train"] |= {"use_gpu": device.type == "cuda", "zero_stage": zero_stage, "learning_rate": 1e-3}
    path = home / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    env = {
        **os.environ,
        "EDA_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "jobs.adapt", "--config", str(path)]
    done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (root,) = (home / "runs").iterdir()
    run = RunDir(root)
    trained, report = run.read_record(DraftCheckpoint, Stage.TRAIN), run.read_record(EvalReport, Stage.EVALUATE)
    assert trained is not None
    assert report is not None
    assert trained.num_steps > 0
    assert (run.stage_dir(Stage.TRAIN) / "pack" / "pack.safetensors").exists()
