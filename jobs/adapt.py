"""Adapt a base draft to a tuned target, from prompts to a published pack.

    python -m jobs.adapt --job-id adapt_...            # what the service submits
    python -m jobs.adapt --target smollm2-135m-math --preset demo
    ray job submit -- python -m jobs.adapt --target org/model --data prompts.jsonl

Running it again with the same --job-id resumes after the last complete stage.
"""

from __future__ import annotations

import argparse
import logging

from jobs.common import main, open_run, parser

logger = logging.getLogger("jobs.adapt")


def adapt(arguments: argparse.Namespace) -> None:
    """Run all stages of one job."""
    from eda_service.distributed.pipeline import run_pipeline

    run, config = open_run(arguments)
    logger.info("job %s in %s", run.job_id, run.root)
    manifest = run_pipeline(run, config)
    logger.info("published %s", manifest.pack)


if __name__ == "__main__":
    main(parser(__doc__ or ""), adapt)
