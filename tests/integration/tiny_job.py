"""An entry point for service tests: the run-directory protocol of `jobs.adapt` without any model work.

    python tests/integration/tiny_job.py --job-id ID [--create OUTCOME]

The job's `served_name` says what it does: `succeed`, `slow` (twenty seconds), `fail` (a final error), `die` (no result)
or `die-once` (no result on the first attempt).
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import DatasetInvalidError
from eda_service.records import STAGES, Stage
from eda_service.storage.runs.run import RunDir

_NUM_STEPS = 4
_SLOW_STEP_S = 0.8


def main() -> None:
    """Walk through the stages, then end as told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job-id", required=True)
    parser.add_argument("--create", help="make the run directory, as a job started by hand does")
    arguments = parser.parse_args()
    run = RunDir.of_job(arguments.job_id)
    if arguments.create:
        run.create(AdaptConfig(target=TargetSpec(model="by-hand"), served_name=arguments.create), origin="ray")
    outcome = run.config().served_name
    attempt = os.environ.get("EDA_ATTEMPT", "1")
    for stage in STAGES:
        run.event("stage_started", f"{stage.value} starts", stage=stage)
        run.log_path(stage).write_text(f"log of {stage.value}, attempt {attempt}\n")
        for step in range(_NUM_STEPS):
            run.progress(stage, step=step + 1, total_steps=_NUM_STEPS, eta_s=1.0)
            time.sleep(_SLOW_STEP_S if outcome == "slow" else 0.02)
        if stage is Stage.GENERATE and (outcome == "die" or (outcome == "die-once" and attempt == "1")):
            sys.stderr.write("about to die\n")
            os._exit(3)
        if stage is Stage.GENERATE and outcome == "fail":
            run.fail(DatasetInvalidError("no prompt gave an answer", param="dataset.source"))
            return
    run.succeed("tiny@1")


if __name__ == "__main__":
    main()
