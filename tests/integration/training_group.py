"""One real Ray Train group with DeepSpeed over the samples of `training_inputs`, without the stages around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training_inputs import inputs_of

from eda_service.pipeline.train import fit
from eda_service.storage.runs.state import Trained


def train(files: Path, name: str, **changes: Any) -> Trained:
    """Train with `TRAIN` and the changes; a second call of a name goes on from its last checkpoint."""
    return fit(inputs_of(files, name, **changes))
