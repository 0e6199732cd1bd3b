"""ZeRO-3 with accumulated gradients, two real workers over gloo: the losses of ZeRO-0 with whole batches, step by step.

Both runs are real Ray Train groups with DeepSpeed over the same samples. A loss follows from all steps before it, so
equal curves are equal training. Whole weights are hashed and written by both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import random_samples, register_draft

from eda_service.artifacts.curve import Curve
from eda_service.artifacts.rundir import RunDir
from eda_service.artifacts.shards import write_shard
from eda_service.config import AdaptConfig
from eda_service.distributed.stage_train import fit
from eda_service.distributed.train_inputs import Payload
from eda_service.model.draft import Draft
from eda_service.records import Stage
from eda_service.target.io import export_io
from eda_service.target.loader import Target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TRAIN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 6,
    "learning_rate": 2e-3,
    "num_workers": 2,
    "precision": "float32",
    "checkpoint_every_steps": 4,
    "loss": {"unroll_steps": 2},
}


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, tiny_target: Target, make_fitted_draft: Callable[..., Draft]
) -> Path:
    root = tmp_path_factory.mktemp("zero")
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 24, (33,), generator=rng).tolist()
    write_shard(root / "data", "shard-00000", random_samples(lengths))
    export_io(tiny_target, root / "io.safetensors")
    register_draft(root, make_fitted_draft("llama"), tiny_target)
    return root


def train(files: Path, name: str, **changes: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    config = AdaptConfig.model_validate({"target": {"model": "tiny"}, "train": {**TRAIN, **changes}})
    run = RunDir(files / "runs" / name)
    run.create(config, origin="ray")
    out_dir = run.stage_dir(Stage.TRAIN)
    payload = Payload(
        run_root=str(run.root),
        out_dir=str(out_dir),
        data_dir=str(files / "data"),
        shards=[("shard-00000", 33)],
        io_path=str(files / "io.safetensors"),
        start_dir=str(files / "drafts" / "tiny" / "1"),
        vocab_path=None,
    )
    return fit(run, config, payload), load_file(out_dir / "pack" / "pack.safetensors")


def losses(files: Path, name: str) -> list[float]:
    return [point.loss for point in Curve(files / "runs" / name / "train").read() if point.loss]


def test_partitioned_and_accumulated_training_takes_the_same_steps(cluster: None, files: Path) -> None:
    plain, pack = train(files, "zero-0", zero_stage=0)
    split, same_pack = train(files, "zero-3", zero_stage=3, micro_batch_size=1)
    expected = losses(files, "zero-0")
    assert len(expected) == plain["total_steps"] == split["total_steps"]
    assert sum(expected[-5:]) < 0.97 * sum(expected[:5])
    assert losses(files, "zero-3") == pytest.approx(expected, rel=1e-3)
    assert split["frozen_after"] == split["frozen_before"] == plain["frozen_after"]
    assert {name: tensor.shape for name, tensor in same_pack.items()} == {
        name: tensor.shape for name, tensor in pack.items()
    }
