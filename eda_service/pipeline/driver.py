"""The driver of a job: it runs each stage without a valid record, skips the others, and ends with a result.

adaptation: validate -> generate -> select -> train -> evaluate -> publish
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eda_service.config.job import AdaptConfig
from eda_service.errors import EdaError
from eda_service.pipeline.evaluate import EVALUATE
from eda_service.pipeline.failures import own_error
from eda_service.pipeline.generate import GENERATE
from eda_service.pipeline.publish import PUBLISH
from eda_service.pipeline.select import SELECT
from eda_service.pipeline.stage import RecordT, StageRunner, TaskT, run_stage
from eda_service.pipeline.train import TRAIN
from eda_service.pipeline.validate import VALIDATE
from eda_service.raycluster.resources import connect
from eda_service.records import PackManifest, Stage
from eda_service.storage.files import is_disk_full
from eda_service.storage.runs.heartbeat import Heartbeat
from eda_service.storage.runs.run import RunDir

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 30.0
"""Longest wait in seconds for an earlier driver to end."""

ADAPTING: tuple[StageRunner[Any], ...] = (VALIDATE, GENERATE, SELECT, TRAIN, EVALUATE, PUBLISH)
"""The stages of an adaptation, in their order."""


def runner_of(stage: Stage) -> StageRunner[Any]:
    """Return a stage of an adaptation by its name."""
    return next(runner for runner in ADAPTING if runner.record.STAGE is stage)


def run_pipeline(run: RunDir, config: AdaptConfig) -> PackManifest:
    """Run all stages of an adaptation in order, ending with `result.json`.

    Raises:
        EdaError: A stage failed; `result.json` then carries its code.
    """

    def ended(manifest: PackManifest) -> None:
        run.event("pack_published", f"published {manifest.pack}", stage=Stage.PUBLISH)
        run.succeed(manifest.pack)

    return drive(run, config, ADAPTING, PackManifest, ended, connects=True)


def drive(
    run: RunDir,
    config: TaskT,
    stages: Sequence[StageRunner[Any, TaskT]],
    last: type[RecordT],
    ended: Callable[[RecordT], None],
    *,
    connects: bool = False,
) -> RecordT:
    """Run all stages of a job in order, as the only driver of its run directory.

    Args:
        run: The job's run directory.
        config: Config of the job.
        stages: Stages in their order.
        last: Class of the last stage's record.
        ended: Function that receives that record and writes `result.json`.
        connects: Whether to connect to Ray before the first stage; otherwise a stage that needs Ray does.

    Raises:
        EdaError: A stage failed; `result.json` then carries its code.
    """
    with run.driver_lock(timeout_s=LOCK_TIMEOUT_S):
        run.clear_result()
        run.reserve()
        try:
            with Heartbeat(run):
                if connects:
                    connect()
                for runner in stages:
                    stage = runner.record.STAGE
                    try:
                        with stage_log(run.log_path(stage)):
                            record = run_stage(run, config, runner)
                    finally:
                        run.share_log(stage)
        except Exception as error:
            if not isinstance(error, EdaError) and not is_disk_full(error):
                raise  # a driver that ended without a result is tried again
            failure = own_error(error)
            run.release()
            with suppress(OSError):
                run.event("attempt_failed", f"{failure.code}: {failure.message}", level="error")
            run.fail(failure)
            raise failure from error
        run.release()
        assert isinstance(record, last)
        ended(record)
    return record


@contextmanager
def stage_log(path: Path) -> Iterator[None]:
    """Write the driver's log of a stage, with an error's traceback, to the stage's own file, where it remains when Ray
    has forgotten the job.
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
