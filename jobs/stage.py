"""Run a single stage of a job by hand; the stages before it must have their records (validate is run if missing)."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir
from jobs.common import open_run

logger = logging.getLogger("jobs.stage")


@contextmanager
def as_driver(run: RunDir) -> Iterator[None]:
    """Hold a run directory as its only driver, as the service's driver does, with the cluster.

    Raises:
        WorkerLostError: Another driver still runs.
    """
    from eda_service.pipeline import driver
    from eda_service.raycluster import resources
    from eda_service.storage.runs.heartbeat import Heartbeat

    with run.driver_lock(timeout_s=driver.LOCK_TIMEOUT_S), Heartbeat(run):
        resources.connect()
        yield


def run_one(stage: Stage) -> Callable[[argparse.Namespace], None]:
    """Make the body of an entry point for one stage."""

    def body(arguments: argparse.Namespace) -> None:
        from eda_service.pipeline.driver import runner_of
        from eda_service.pipeline.stage import run_stage

        run, config = open_run(arguments)
        with as_driver(run):
            if stage is Stage.GENERATE:
                run_stage(run, config, runner_of(Stage.VALIDATE))
            run_stage(run, config, runner_of(stage))
        logger.info("job %s: %s", run.job_id, run.root / stage.value / "record.json")

    return body
