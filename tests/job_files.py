"""Run directories as finished jobs leave them: training and evaluation are the records of a real job (committed under
`benchmarks/packs`), those of the stages before are made up.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from pathlib import Path
from typing import Any

from pack_files import fingerprint, put_pack

from eda_service.config.job import AdaptConfig
from eda_service.errors import ConflictError
from eda_service.jobstore import Job, JobStore, Status
from eda_service.records import (
    STAGES,
    DraftCheckpoint,
    EvalReport,
    FileEntry,
    SampleScore,
    SelectionManifest,
    SelfGenManifest,
    Stage,
    ValidateRecord,
)
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples.samples import SampleText, SampleWriter

REPOSITORY = Path(__file__).resolve().parents[1]
RECORDS = REPOSITORY / "benchmarks" / "packs" / "smollm2-135m-math"
NUM_SAMPLES, NUM_KEPT = 320, 160


def record_of(stage: Stage) -> dict[str, Any]:
    """The committed record of a real job's stage: train or evaluate."""
    found: dict[str, Any] = json.loads((RECORDS / f"{stage.value}.json").read_text(encoding="utf-8"))
    return found


def finish_job(store: JobStore, home: Path, job: Job, *, kept: str | None = None) -> Job:
    """Take a queued job through all stages: its run directory, its pack and its row; `kept` says why its pack is not
    deployed.
    """
    run = RunDir.of_job(job.id, home)
    config = job.adapt_config()
    run.create(config, origin="api")
    write_records(run, config)
    for stage in STAGES:
        run.log_path(stage).write_text(f"stage {stage.value} of {job.id}\nloaded\n", encoding="utf-8")
    with contextlib.suppress(ConflictError):  # a dispatcher may have been faster
        store.jobs.transition(job.id, Status.RUNNING, event="attempt_started", message="attempt 1 of 3")
    store.jobs.record_progress(
        job.id, {"stage": "publish", "percent": 100.0, "step": 1, "total_steps": 1, "updated_at": 1}
    )
    rows = {(row.draft, row.temperature): row.acceptance_length for row in _report().acceptance}
    lengths = rows["adapted_draft", 0.0], rows["base_draft", 0.0]
    pack = put_pack(
        home,
        config.public_name,
        lengths[0],
        base=lengths[1],
        job_id=job.id,
        created_at=int(time.time()),
        model=config.target.model,
        base_draft=config.base_draft,
    )
    return store.jobs.transition(
        job.id,
        Status.SUCCEEDED,
        event="job_succeeded",
        message=f"published {pack}",
        result_pack=pack,
        deployment_kept=kept,
    )


def write_records(run: RunDir, config: AdaptConfig) -> None:
    """The record of every stage but publish."""
    trained, report = DraftCheckpoint.model_validate(record_of(Stage.TRAIN)), _report()
    began = int(time.time()) - 1400
    common: dict[str, Any] = {"seed": 0, "library_versions": {}, "inputs": {}}
    run.write_record(
        ValidateRecord(
            stage=Stage.VALIDATE,
            created_at=began + 20,
            seconds=20.0,
            config={},
            target=fingerprint(model=config.target.model, adapter=config.target.adapter),
            base_draft=config.base_draft,
            base_draft_sha256="d",
            num_prompts=NUM_SAMPLES,
            num_eval_prompts=16,
            prompts_sha256="p",
            disk_need_bytes=175_000_000,
            disk_free_bytes=50_000_000_000,
            estimated_seconds=1200.0,
            **common,
        )
    )
    scores = _scores()
    run.write_record(
        SelfGenManifest(
            stage=Stage.GENERATE,
            created_at=began + 320,
            seconds=300.0,
            config={},
            files=(FileEntry(path="shard-00000.tokens.safetensors", sha256="0", size_bytes=57_000_000),),
            num_samples=NUM_SAMPLES,
            num_tokens=60_000,
            num_answer_tokens=30_000,
            skipped=(),
            scores=scores,
            generation_seconds=250.0,
            scoring_seconds=1.0,
            reference_seconds=6.4,
            reference_fit_seconds=0.2,
            num_reference_tokens=4000,
            **common,
        )
    )
    kept = sorted(scores, key=lambda score: -score.sample_value)[:NUM_KEPT]
    run.write_record(
        SelectionManifest(
            stage=Stage.SELECT,
            created_at=began + 321,
            seconds=0.7,
            config={},
            num_candidates=NUM_SAMPLES,
            num_selected=NUM_KEPT,
            keep_fraction=0.5,
            threshold=kept[-1].sample_value,
            selected_ids=tuple(score.sample_id for score in kept),
            num_answer_tokens=15_000,
            selection_seconds=1.2,
            selection_over_generation_time=0.005,
            **common,
        )
    )
    end = began + 321 + round(trained.seconds)
    run.write_record(trained.model_copy(update={"created_at": end}))
    run.write_record(report.model_copy(update={"created_at": end + round(report.seconds)}))


def keep_samples(run: RunDir) -> None:
    """Write down the texts of a job's samples, as stage select does."""
    directory = run.stage_dir(Stage.SELECT)
    record = run.read_record(SelectionManifest, Stage.SELECT)
    assert record is not None
    kept = set(record.selected_ids)
    writer = SampleWriter(directory)
    for score in _scores():
        writer.add(
            SampleText(
                sample_id=score.sample_id,
                kept=score.sample_id in kept,
                sample_value=score.sample_value,
                num_prompt_tokens=12,
                num_answer_tokens=score.num_answer_tokens,
                messages=[{"role": "user", "content": f"<b>question</b> {score.sample_id}"}],
                answer=f"<i>answer</i> {score.sample_id}",
            )
        )
    files = tuple(file_entry(directory, path) for path in writer.close())
    run.write_record(record.model_copy(update={"files": files}))


def _report() -> EvalReport:
    return EvalReport.model_validate(record_of(Stage.EVALUATE))


def _scores() -> tuple[SampleScore, ...]:
    chance = random.Random(0)
    return tuple(
        SampleScore(
            sample_id=f"s{place}",
            shard="shard-00000",
            row=place,
            num_answer_tokens=90,
            sample_value=chance.gammavariate(9, 10),
        )
        for place in range(NUM_SAMPLES)
    )
