"""33 short samples of a tiny target, and what a training run over them is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eda_service.config.job import AdaptConfig
from eda_service.drafts.draft import Draft
from eda_service.records import CurvePoint
from eda_service.storage.runs.curve import Curve
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples.shards import write_shard
from eda_service.targets.ends_file import export_io
from eda_service.targets.loader import Target
from eda_service.training.inputs import TrainInputs
from tests.tiny_models import random_samples, register_draft

TRAIN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 6,
    "learning_rate": 2e-3,
    "num_workers": 2,
    "precision": "float32",
    "checkpoint_every_steps": 4,
    "loss": {"unroll_steps": 2},
}
"""30 samples train and 3 are held out: five steps an epoch."""


def write_inputs(root: Path, target: Target, draft: Draft) -> Path:
    """The samples, the target's embedding and head, and the base draft; returns `root`."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 24, (33,), generator=rng).tolist()
    write_shard(root / "data", "shard-00000", random_samples(lengths))
    export_io(target, root / "io.safetensors")
    register_draft(root, draft, target)
    return root


def inputs_of(files: Path, name: str, **changes: Any) -> TrainInputs:
    """What a worker of the run `name` is given, with `TRAIN` and the changes; its run directory is made."""
    config = AdaptConfig.model_validate({"target": {"model": "tiny"}, "train": {**TRAIN, **changes}})
    run = RunDir(files / "runs" / name)
    if not run.root.exists():
        run.create(config, origin="ray")
    return TrainInputs(
        config=config,
        run_root=run.root,
        data_dir=files / "data",
        shards=(("shard-00000", 33),),
        io_path=files / "io.safetensors",
        start_dir=files / "drafts" / "tiny" / "1",
    )


def pack_of(files: Path, name: str) -> Path:
    """The weights that a run has left."""
    return files / "runs" / name / "train" / "pack" / "pack.safetensors"


def curve_of(files: Path, name: str) -> list[CurvePoint]:
    """Its losses and simulated acceptance lengths."""
    return list(Curve(files / "runs" / name / "train").read())
