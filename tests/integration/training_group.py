"""One real Ray Train group with DeepSpeed over 33 short samples of a tiny target, without the stages around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import random_samples, register_draft

from eda_service.config.job import AdaptConfig
from eda_service.drafts.draft import Draft
from eda_service.pipeline.train import fit
from eda_service.records import CurvePoint, Stage
from eda_service.storage.curve import Curve
from eda_service.storage.run import RunDir
from eda_service.storage.shards import write_shard
from eda_service.targets.io import export_io
from eda_service.targets.loader import Target
from eda_service.training.inputs import Payload

TRAIN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 6,
    "learning_rate": 2e-3,
    "num_workers": 2,
    "precision": "float32",
    "checkpoint_every_steps": 4,
    "loss": {"unroll_steps": 2},
}


def write_inputs(root: Path, target: Target, draft: Draft) -> Path:
    """The samples, the target's embedding and head, and the base draft; returns `root`."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 24, (33,), generator=rng).tolist()
    write_shard(root / "data", "shard-00000", random_samples(lengths))
    export_io(target, root / "io.safetensors")
    register_draft(root, draft, target)
    return root


def train(files: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Train with `TRAIN` and the changes; a second call of a name goes on from its last checkpoint."""
    config = AdaptConfig.model_validate({"target": {"model": "tiny"}, "train": {**TRAIN, **changes}})
    run = RunDir(files / "runs" / name)
    if not run.root.exists():
        run.create(config, origin="ray")
    payload = Payload(
        run_root=str(run.root),
        out_dir=str(run.stage_dir(Stage.TRAIN)),
        data_dir=str(files / "data"),
        shards=[("shard-00000", 33)],
        io_path=str(files / "io.safetensors"),
        start_dir=str(files / "drafts" / "tiny" / "1"),
        vocab_path=None,
    )
    return fit(run, config, payload)


def pack_of(files: Path, name: str) -> Path:
    """The weights that a group has left."""
    return files / "runs" / name / "train" / "pack" / "pack.safetensors"


def curve_of(files: Path, name: str) -> list[CurvePoint]:
    """Its losses and simulated acceptance lengths."""
    return list(Curve(files / "runs" / name / "train").read())
