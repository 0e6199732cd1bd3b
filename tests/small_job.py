"""The smallest adaptation that runs every stage, over a tiny target, with its base draft on storage by URL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import fit_draft, register_draft

from eda_service.config.job import TargetSpec
from eda_service.storage.published.registry import publish_draft, stage_draft
from eda_service.targets.loader import load_target

CONFIG: dict[str, Any] = {
    "selfgen": {"max_new_tokens": 12, "batch_size": 8, "shard_size": 8, "threads_per_actor": 1},
    "selection": {"num_reference_prompts": 8, "reference_max_new_tokens": 8, "pca_dim": 8},
    "train": {"epochs": 4, "batch_size": 4, "num_workers": 1, "checkpoint_every_steps": 4},
    "evaluation": {"num_prompts": 4, "max_new_tokens": 8, "num_timed_prompts": 0, "temperatures": [0.0], "threads": 1},
    "deploy": {"min_gain": 0, "min_speed_gain": 0},  # a random target's draft gains nothing; it is served all the same
}


def write_prompts(path: Path) -> dict[str, Any]:
    """Prompts in a file; the data set that they are."""
    lines = [json.dumps({"prompt": f"the user and the other number {n}"}) for n in range(28)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return {"source": str(path), "num_prompts": 28}


def store_draft(target_dir: Path, home: Path) -> None:
    """Register `tiny@1` on the storage of this process, from a machine with this home."""
    target = load_target(TargetSpec(model=str(target_dir), dtype="float32"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDA_HOME", str(home))
        staging = stage_draft("tiny", 1)
        shutil.copytree(register_draft(home, fit_draft(target, steps=60), target), staging, dirs_exist_ok=True)
        publish_draft(staging, "tiny", 1)
