"""The best weights so far, stored as the train stage's `pack`, which the job publishes in the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor

from eda_service.config.job import TrainConfig
from eda_service.drafts.checkpoint import save_pack
from eda_service.drafts.draft import Draft
from eda_service.records import FileEntry, Stage
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Best

_PACK = "pack"


def keep_best(run: RunDir, draft: Draft, config: TrainConfig, vocab_W: Tensor | None) -> None:
    """Replace the stored best weights by a draft's trained weights, each file atomically."""
    out_dir = run.stage_dir(Stage.TRAIN)
    staging = Path(tempfile.mkdtemp(prefix=".best-", dir=out_dir))
    save_pack(staging, draft, config, vocab_W)
    best = out_dir / _PACK
    best.mkdir(exist_ok=True)
    for path in staging.iterdir():
        path.replace(best / path.name)
    staging.rmdir()
    files = run.store.upload(Stage.TRAIN, (file_entry(out_dir, path) for path in sorted(best.iterdir())))
    if files is not None:
        run.write(Best(files=files))


def fetch_best(run: RunDir) -> tuple[FileEntry, ...]:
    """Fetch the best weights to this machine."""
    out_dir = run.stage_dir(Stage.TRAIN)
    best = run.read(Best)
    if best is None:
        return tuple(file_entry(out_dir, path) for path in sorted((out_dir / _PACK).iterdir()))
    run.store.fetch(Stage.TRAIN, best.files)
    return best.files
