"""Packs that can be exported, and exports as if their jobs had run: small files that say what a real one's do."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

from pack_files import fingerprint, put_pack

from eda_service.config.job import TrainConfig
from eda_service.config.tasks import ExportConfig
from eda_service.jobstore import Job, JobStore, Status
from eda_service.records import Stage
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir
from eda_service.task_records import EXPORTED, ExportRecord

BASE_DRAFT, TARGET = "smollm2-135m@2", "smollm2-135m-math"
"""Both come with the package; the draft is EAGLE-1 with a vocabulary of its own."""
COMMAND = 'vllm serve MERGED_TARGET --speculative-config \'{"model": "here"}\''
FILES = {"SERVE.txt": COMMAND.encode(), "config.json": b"{}\n", "model.safetensors": bytes(range(256)) * 5}


def put_exportable(home: Path, name: str, *, train: TrainConfig | None = None, **pack: Any) -> str:
    """Publish a pack whose config and header can be read; returns name@version."""
    with tempfile.TemporaryDirectory() as made:
        files = Path(made)
        (files / "pack.json").write_text((train or TrainConfig()).model_dump_json())
        (files / "pack.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
        given = {"files": files, "base_draft": BASE_DRAFT, "model": TARGET, **pack}
        return put_pack(home, name, 2.0, **given)


def write_exported(run: RunDir, config: ExportConfig) -> ExportRecord:
    """What the job of an export leaves in its run directory."""
    directory = run.stage_dir(Stage.EXPORT)
    (directory / EXPORTED).mkdir()
    for name, content in FILES.items():
        (directory / EXPORTED / name).write_bytes(content)
    record = ExportRecord(
        stage=Stage.EXPORT,
        created_at=1,
        seconds=2.0,
        config=config.model_dump(mode="json"),
        seed=0,
        library_versions={},
        inputs={},
        files=tuple(file_entry(directory, directory / EXPORTED / name, transient=True) for name in sorted(FILES)),
        pack=config.pack,
        target=fingerprint(model="org/model"),
        dialect=None,
        serve_command=COMMAND,
        needs=("MERGED_TARGET is a directory",),
        acceptance_length=2.5,
        exported_acceptance_length=2.25,
    )
    return run.write_record(record)


def finish_export(store: JobStore, home: Path, job: Job) -> Job:
    """Bring a queued export to its end, its run directory written."""
    config = job.task()
    assert isinstance(config, ExportConfig)
    run = RunDir.of_job(job.id, home)
    run.create(config, origin="api")
    write_exported(run, config)
    store.jobs.transition(job.id, Status.RUNNING, event="attempt_started", message="attempt 1 of 3")
    return store.jobs.transition(job.id, Status.SUCCEEDED, event="job_succeeded", message="exported", result=job.id)


def spoken_path(text: str, home: Path) -> bool:
    """Whether a text names a place below a home."""
    return str(home) in text or json.dumps(str(home))[1:-1] in text
