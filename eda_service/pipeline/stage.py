"""A stage: its work, the record it ends with, and the work that follows once that record exists.

A stage reads the records before its own (`run.require`), works, and returns its own fields. Its config names the base
draft with the version that stage validate found. The header above them
(schema version, times, config, seed, library versions) is filled in here, for all stages alike. Each module of a stage
ends with its `StageRunner`; a way through the pipeline is a tuple of them (`driver.ADAPTING`, `pretrain`,
`import_draft.IMPORTING` and its like).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from pydantic import BaseModel
from typing_extensions import TypeVar

from eda_service.config.job import AdaptConfig
from eda_service.config.tasks import ExportConfig, ImportConfig, MeasureConfig
from eda_service.errors import ArtifactCorruptError
from eda_service.pipeline.failures import own_error
from eda_service.pipeline.stage_log import log_end, log_start
from eda_service.records import Record, Stage, StageFields, ValidateRecord
from eda_service.storage.runs.provenance import library_versions
from eda_service.storage.runs.run import RunDir

logger = logging.getLogger(__name__)

RecordT = TypeVar("RecordT", bound=Record)
OtherT = TypeVar("OtherT", bound=Record)
TaskT = TypeVar("TaskT", AdaptConfig, ImportConfig, MeasureConfig, ExportConfig, default=AdaptConfig)


def _nothing(_run: RunDir) -> None:
    """Do nothing, for a stage that nothing follows."""


@dataclass(frozen=True)
class StageRunner(Generic[RecordT, TaskT]):
    """One stage of a job, as the driver runs it.

    Attributes:
        record: Class of its record, which names the stage.
        part: Function from the job's config to the part that the record keeps.
        run: Function that does the work and returns the stage's own fields.
        keep: Function that publishes the record, as the stage's last write, and returns the one that counts.
        afterwards: Function that runs whenever the record exists, also if it existed before; it may run twice.
    """

    record: type[RecordT]
    part: Callable[[TaskT], BaseModel]
    run: Callable[[RunDir, TaskT], StageFields]
    keep: Callable[[RunDir, RecordT], RecordT] = RunDir.write_record
    afterwards: Callable[[RunDir], None] = _nothing

    def record_of(self, config: TaskT, fields: StageFields, *, seconds: float) -> RecordT:
        """Make the record: the stage's fields under their header.

        Args:
            config: Config of the job.
            fields: Fields that the stage returned.
            seconds: Wall-clock seconds of the stage.
        """
        return self.record(
            stage=self.record.STAGE,
            created_at=int(time.time()),
            seconds=seconds,
            config=self.part(config).model_dump(mode="json"),
            seed=config.seed,
            library_versions=library_versions(),
            **dict(fields),
        )


def run_stage(run: RunDir, config: TaskT, runner: StageRunner[RecordT, TaskT]) -> RecordT:
    """Return a stage's valid record if there is one; otherwise run the stage.

    Raises:
        EdaError: The stage failed; errors of Ray workers are raised as the errors they were there.
    """
    stage, record = runner.record.STAGE, _valid_record(run, runner.record)
    if record is None:
        started = time.monotonic()
        run.event("stage_started", f"stage {stage.value} started", stage=stage)
        log_start(run, stage, runner.part(config).model_dump(mode="json"))
        try:
            config = _as_validated(run, config, stage)
            fields = runner.run(run, config)
        except Exception as error:
            raise own_error(error) from error
        record = runner.keep(run, runner.record_of(config, fields, seconds=time.monotonic() - started))
        took_s = time.monotonic() - started
        run.event("stage_finished", f"stage {stage.value} took {took_s:.1f} s", stage=stage, took_s=took_s)
        log_end(record)
    else:
        run.event("stage_skipped", f"stage {stage.value} has a valid record", stage=stage)
        logger.info("stage %s of %s has a valid record and is not done again", stage.value, run.job_id)
    runner.afterwards(run)
    return record


def _as_validated(run: RunDir, config: TaskT, stage: Stage) -> TaskT:
    """Return the config with the version of the base draft that stage validate found: a job that was started by hand
    may name a draft without one, and a newer one may have been registered since.

    Raises:
        ArtifactCorruptError: The record of validate does not parse.
    """
    if not isinstance(config, AdaptConfig) or stage is Stage.VALIDATE:
        return config
    record = run.read_record(ValidateRecord, Stage.VALIDATE, verify=False)
    return config if record is None else config.model_copy(update={"base_draft": record.base_draft})


def _valid_record(run: RunDir, kind: type[OtherT]) -> OtherT | None:
    try:
        return run.read_record(kind, kind.STAGE)
    except ArtifactCorruptError as error:
        run.event("record_invalid", error.message, stage=kind.STAGE, level="warning")
        return None
