"""Measure a draft, or a draft and a pack, on a target and prompts.

    python -m jobs.measure --job-id measure_...        # what the service submits
    python -m jobs.measure --target smollm2-135m-math --draft smollm2-135m@3 --data prompts.jsonl --num-prompts 32

The result is the record of the run directory, `measure/record.json`.
"""

from __future__ import annotations

import argparse
import logging

from eda_service.config.tasks import MeasureConfig
from jobs.common import as_path, main, open_task, task_parser

logger = logging.getLogger("jobs.measure")


def arguments_of_measure() -> argparse.ArgumentParser:
    """Make the parser with the arguments of every entry point that is no adaptation and those of the measurement."""
    made = task_parser(__doc__ or "")
    made.add_argument("--adapter", help="LoRA adapter on the target: id or directory")
    made.add_argument("--draft", help="name@version")
    made.add_argument("--pack", help="name@version of a pack over the draft")
    made.add_argument("--base-target", help="the draft's own target, to say what was lost")
    made.add_argument("--data", help="JSONL file, Hugging Face dataset id, reasoning-gym:<task>, or self")
    made.add_argument("--num-prompts", type=int)
    made.add_argument("--max-new-tokens", type=int)
    made.add_argument("--num-draft-tokens", type=int)
    made.add_argument("--temperature", type=float, action="append", help="repeatable; default: 0 and 1")
    made.add_argument("--check", action="store_true", default=None, help="make the check of an import instead")
    return made


def run_measurement(arguments: argparse.Namespace) -> None:
    """Run one measurement."""
    from eda_service.pipeline.measure import measure

    flags = {
        "target.adapter": as_path(arguments.adapter),
        "draft": arguments.draft,
        "pack": arguments.pack,
        "base_target.model": as_path(arguments.base_target),
        "dataset.source": as_path(arguments.data),
        "dataset.num_prompts": arguments.num_prompts,
        "max_new_tokens": arguments.max_new_tokens,
        "num_draft_tokens": arguments.num_draft_tokens,
        "temperatures": arguments.temperature,
        "check": arguments.check,
    }
    run, config = open_task(arguments, MeasureConfig, flags)
    logger.info("job %s in %s", run.job_id, run.root)
    record = measure(run, config)
    logger.info("%s", record.measurement.advice or run.root / "measure" / "record.json")


if __name__ == "__main__":
    main(arguments_of_measure(), run_measurement)
