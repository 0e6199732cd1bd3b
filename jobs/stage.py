"""Run a single stage of a job by hand; the stages before it must have their records (validate is run if missing)."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

from eda_service.records import Stage
from jobs.common import open_run

logger = logging.getLogger("jobs.stage")


def run_one(stage: Stage) -> Callable[[argparse.Namespace], None]:
    """The body of an entry point for one stage."""

    def body(arguments: argparse.Namespace) -> None:
        from eda_service.pipeline.driver import runner_of
        from eda_service.pipeline.stage import run_stage
        from eda_service.raycluster.resources import connect
        from eda_service.storage.heartbeat import Heartbeat

        run, config = open_run(arguments)
        with Heartbeat(run):
            connect()
            if stage is Stage.GENERATE:
                run_stage(run, config, runner_of(Stage.VALIDATE))
            run_stage(run, config, runner_of(stage))
        logger.info("job %s: %s", run.job_id, run.root / stage.value / "record.json")

    return body
