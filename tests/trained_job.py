"""Run directories of jobs that have trained, over a tiny target: all that the stages evaluate and publish read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from adapted_packs import publish_adapted
from job_files import write_records

from eda_service.config.job import AdaptConfig, TrainConfig
from eda_service.pipeline.prepare import HELDOUT_FILE, write_prompt_file
from eda_service.records import DraftCheckpoint, SelectionManifest, SelfGenManifest, Stage, ValidateRecord
from eda_service.selfgen.prompts import Prompt
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import Target

TRAIN = TrainConfig(private_width_fraction=0.5)
PROMPTS = tuple(f"the user and the other number {n}" for n in range(4))


def trained_job(
    home: Path,
    base_dir: Path,
    target: Target,
    job_id: str,
    *,
    std: float,
    prompts: tuple[str, ...] = PROMPTS,
    **evaluation: Any,
) -> tuple[RunDir, AdaptConfig]:
    """A job whose pack lies in its train stage.

    Args:
        home: Root of all state; the environment's too.
        base_dir: Of its base draft, `tiny@1`.
        target: As it was loaded.
        job_id: Names the run directory.
        std: How far its pack was moved from the base draft: 0 accepts as much as that, 0.05 hardly anything.
        prompts: Held out.
        evaluation: Its settings.
    """
    settings = {
        "num_prompts": len(prompts),
        "max_new_tokens": 32,
        "temperatures": [1.0, 0.0],  # at 0 these drafts accept next to nothing
        "num_timed_prompts": 0,
        "threads": 1,
        **evaluation,
    }
    config = AdaptConfig.model_validate(
        {
            "target": target.spec.model_dump(),
            "base_draft": "tiny@1",
            "served_name": "math",
            "dataset": {"source": "/data/mine.jsonl", "num_prompts": 20},
            "train": TRAIN.model_dump(),
            "evaluation": settings,
        }
    )
    run = RunDir.of_job(job_id, home)
    run.create(config, origin="ray")
    write_records(run, config)
    (run.root / "evaluate" / "record.json").unlink()
    heldout = run.stage_dir(Stage.GENERATE) / HELDOUT_FILE
    write_prompt_file(heldout, [Prompt(str(n), [{"role": "user", "content": text}]) for n, text in enumerate(prompts)])
    name = f"source-{job_id}"
    publish_adapted(home, base_dir, target, TRAIN, std=std, name=name)
    train_dir = run.stage_dir(Stage.TRAIN)
    shutil.copytree(home / f"files-{name}", train_dir / "pack")
    files = {
        Stage.VALIDATE: (ValidateRecord, {"target": target.fingerprint, "files": ()}),
        Stage.GENERATE: (SelfGenManifest, {"files": (file_entry(heldout.parent, heldout),)}),
        Stage.SELECT: (SelectionManifest, {"files": ()}),
        Stage.TRAIN: (
            DraftCheckpoint,
            {"files": tuple(file_entry(train_dir, path) for path in sorted((train_dir / "pack").iterdir()))},
        ),
    }
    for stage, (kind, changes) in files.items():
        record = run.read_record(kind, stage, verify=False)
        assert record is not None
        run.write_record(record.model_copy(update=changes))
    return run, config
