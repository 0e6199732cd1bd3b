"""Import a draft that was made elsewhere: read it in its dialect, check it, and register it as name@version.

    python -m jobs.import_draft --job-id import_...    # what the service submits
    python -m jobs.import_draft --source ~/drafts/eagle3-llama --target meta-llama/Llama-3.1-8B-Instruct
    python -m jobs.import_draft --source org/eagle3 --target org/base --name ours --set rope_theta=500000 --no-check

Running it again with the same --job-id resumes after the last complete stage.
"""

from __future__ import annotations

import argparse
import logging

from eda_service.config.tasks import ImportConfig
from eda_service.errors import InputError
from jobs.common import as_path, main, open_task, task_parser

logger = logging.getLogger("jobs.import_draft")


def arguments_of_import() -> argparse.ArgumentParser:
    """Make the parser with the arguments of every entry point that is no adaptation and those of the import."""
    made = task_parser(__doc__ or "")
    made.add_argument("--source", help="directory of the draft, or its id on the model hub")
    made.add_argument("--source-revision", help="of the source on the hub: branch, tag or commit")
    made.add_argument("--name", help="to register it under; default: the last part of --source")
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of the draft's shape")
    made.add_argument("--no-check", action="store_true", help="register it without measuring it")
    made.add_argument("--num-check-prompts", type=int, help="answers of the check; default: 20")
    return made


def run_import(arguments: argparse.Namespace) -> None:
    """Run all stages of one import."""
    from eda_service.pipeline.import_draft import import_draft

    flags = {
        "source": as_path(arguments.source),
        "revision": arguments.source_revision,
        "name": arguments.name,
        "overrides": overrides_of(arguments.set),
        "check": False if arguments.no_check else None,
        "num_check_prompts": arguments.num_check_prompts,
    }
    run, config = open_task(arguments, ImportConfig, flags)
    logger.info("job %s in %s", run.job_id, run.root)
    record = import_draft(run, config)
    logger.info("registered %s", record.draft)


def overrides_of(assignments: list[str]) -> dict[str, str]:
    """Split each `FIELD=VALUE` into field and text; the dialects know what a field means.

    Raises:
        InputError: An assignment has another form.
    """
    found = {}
    for text in assignments:
        field, equals, value = text.partition("=")
        if not equals or not field or not value:
            raise InputError(f"--set {text!r} is not of the form FIELD=VALUE", param="set")
        found[field] = value
    return found


if __name__ == "__main__":
    main(arguments_of_import(), run_import)
