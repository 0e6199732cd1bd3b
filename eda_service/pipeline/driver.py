"""An adaptation from first to last stage: run what has no valid record, skip what has one, end with a result.

validate -> generate -> select -> train -> evaluate -> publish
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eda_service.config.job import AdaptConfig
from eda_service.errors import ArtifactCorruptError, EdaError
from eda_service.pipeline.evaluate import run_evaluate
from eda_service.pipeline.failures import own_error
from eda_service.pipeline.generate import run_generate
from eda_service.pipeline.publish import run_publish
from eda_service.pipeline.select import forget_unselected, run_select
from eda_service.pipeline.train import run_train
from eda_service.pipeline.validate import run_validate
from eda_service.raycluster.resources import connect
from eda_service.records import (
    STAGES,
    DraftCheckpoint,
    EvalReport,
    PackManifest,
    Record,
    SelectionManifest,
    SelfGenManifest,
    Stage,
    ValidateRecord,
)
from eda_service.storage.files import is_disk_full
from eda_service.storage.heartbeat import Heartbeat
from eda_service.storage.run import RunDir

logger = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 30.0

_RECORDS: dict[Stage, type[Record]] = {
    Stage.VALIDATE: ValidateRecord,
    Stage.GENERATE: SelfGenManifest,
    Stage.SELECT: SelectionManifest,
    Stage.TRAIN: DraftCheckpoint,
    Stage.EVALUATE: EvalReport,
    Stage.PUBLISH: PackManifest,
}
_RUNNERS: dict[Stage, Callable[[RunDir, AdaptConfig], Record]] = {
    Stage.VALIDATE: run_validate,
    Stage.GENERATE: run_generate,
    Stage.SELECT: run_select,
    Stage.TRAIN: run_train,
    Stage.EVALUATE: run_evaluate,
    Stage.PUBLISH: run_publish,
}


def run_stage(run: RunDir, config: AdaptConfig, stage: Stage) -> Record:
    """One stage: its valid record if there is one, else a fresh run. The record is the stage's last write.

    Raises:
        EdaError: Of the stage; errors from Ray workers come as the errors they were there.
    """
    record = _valid_record(run, stage)
    if record is None:
        started = time.monotonic()
        run.event("stage_started", f"stage {stage.value} started", stage=stage)
        try:
            record = _RUNNERS[stage](run, config)
        except Exception as error:
            raise own_error(error) from error
        if stage is not Stage.PUBLISH:
            record = run.write_record(record)
        took_s = time.monotonic() - started
        run.event("stage_finished", f"stage {stage.value} took {took_s:.1f} s", stage=stage, took_s=took_s)
    else:
        run.event("stage_skipped", f"stage {stage.value} has a valid record", stage=stage)
    if stage is Stage.SELECT:
        freed = forget_unselected(run)
        if freed:
            run.event("hidden_states_deleted", f"{freed / 1e6:.1f} MB of hidden states freed", stage=stage)
    return record


def _valid_record(run: RunDir, stage: Stage) -> Record | None:
    try:
        return run.read_record(_RECORDS[stage], stage)
    except ArtifactCorruptError as error:
        run.event("record_invalid", error.message, stage=stage, level="warning")
        return None


def run_pipeline(run: RunDir, config: AdaptConfig) -> PackManifest:
    """All stages in order, ending with `result.json`.

    Raises:
        EdaError: The first stage that failed; `result.json` then carries its code.
    """
    with run.driver_lock(timeout_s=_LOCK_TIMEOUT_S):
        run.clear_result()
        run.reserve()
        try:
            with Heartbeat(run):
                connect()
                for stage in STAGES:
                    try:
                        with stage_log(run.log_path(stage)):
                            record = run_stage(run, config, stage)
                    finally:
                        run.share_log(stage)
        except Exception as error:
            if not isinstance(error, EdaError) and not is_disk_full(error):
                raise  # a driver that is gone without a word is tried again
            failure = own_error(error)
            run.release()
            with suppress(OSError):
                run.event("attempt_failed", f"{failure.code}: {failure.message}", level="error")
            run.fail(failure)
            raise failure from error
        run.release()
        assert isinstance(record, PackManifest)
        run.event("pack_published", f"published {record.pack}", stage=Stage.PUBLISH)
        run.succeed(record.pack)
    return record


@contextmanager
def stage_log(path: Path) -> Iterator[None]:
    """Keep what the driver logs during a stage in the stage's own file, an error's traceback included: it is there
    when Ray has forgotten the job.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except EdaError:
        logger.exception("the stage failed")
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
