"""Adapt a base draft to a tuned target, from prompts to a published pack.

    python -m jobs.adapt --job-id adapt_...            # what the service submits
    python -m jobs.adapt --target smollm2-135m-math --preset demo
    python -m jobs.adapt --target org/model --preset paper_7b --set train.use_gpu=true --dry-run --gpu a100
    ray job submit -- python -m jobs.adapt --target org/model --data prompts.jsonl

Running it again with the same --job-id resumes after the last complete stage. --dry-run shows what the job would
request from Ray, its memory, disk and time, and runs nothing.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict

from eda_service.errors import EdaError
from eda_service.storage.runs.run import RunDir, home_dir
from jobs.common import config_of, main, open_run, parser

logger = logging.getLogger("jobs.adapt")


def arguments_of_adapt() -> argparse.ArgumentParser:
    """Make the parser with the arguments of every entry point and those of the dry run."""
    made = parser(__doc__ or "")
    made.add_argument("--dry-run", action="store_true", help="say what the job would need, and run nothing")
    made.add_argument("--gpu", help="with --dry-run: h100, h200, a100 or l40s; default: h100")
    return made


def adapt(arguments: argparse.Namespace) -> None:
    """Run all stages of one job, or print what they would need."""
    if arguments.dry_run:
        sys.stdout.write(needs_text(arguments) + "\n")
        return
    from eda_service.pipeline.driver import run_pipeline

    run, config = open_run(arguments)
    logger.info("job %s in %s", run.job_id, run.root)
    manifest = run_pipeline(run, config)
    logger.info("published %s", manifest.pack)
    keep_what_it_took(run)


def needs_text(arguments: argparse.Namespace) -> str:
    """Return the text of a job's dry run, as `eda adapt --dry-run` shows it.

    Raises:
        InputError: The config is wrong, or its target or GPU is unknown.
    """
    from eda_service.cli.jobs.view import estimate_text
    from eda_service.client import Estimate
    from eda_service.planning.dry_run import dry_run

    found = dry_run(config_of(arguments), home_dir(), gpu=arguments.gpu)
    return estimate_text(Estimate.model_validate(asdict(found)))


def keep_what_it_took(run: RunDir) -> None:
    """Store the job's calibration for coming dry runs; an error here does not fail the job."""
    from eda_service.planning.kept import keep_calibration

    try:
        keep_calibration(run)
    except (EdaError, OSError) as error:
        logger.warning("the next dry runs are not calibrated by this job: %s", error)


if __name__ == "__main__":
    main(arguments_of_adapt(), adapt)
