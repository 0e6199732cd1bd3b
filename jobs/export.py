"""Export a pack for another engine, to be downloaded.

    python -m jobs.export --job-id export_...          # what the service submits
    python -m jobs.export --target smollm2-135m-math --pack math@3 --to vllm --form dense

The result is in the run directory: `export/files`, and the record `export/record.json`.
"""

from __future__ import annotations

import argparse
import logging

from eda_service.config.tasks import ExportConfig
from jobs.common import as_path, main, open_task, task_parser

logger = logging.getLogger("jobs.export")


def arguments_of_export() -> argparse.ArgumentParser:
    """Return the parser of an export: the options of every entry point that is no adaptation, and its own."""
    made = task_parser(__doc__ or "")
    made.add_argument("--adapter", help="LoRA adapter on the target: id or directory")
    made.add_argument("--pack", help="name@version")
    made.add_argument("--to", help="who will load it: vllm, sglang or hf")
    made.add_argument("--form", help="plugin or dense; default: plugin")
    made.add_argument("--dialect", help="how an EAGLE-3 draft is written")
    made.add_argument("--num-prompts", type=int, help="on which a dense form is calibrated and measured; default: 64")
    made.add_argument("--num-draft-tokens", type=int, help="K of the chains; default: 3")
    return made


def run_export(arguments: argparse.Namespace) -> None:
    """Run one export."""
    from eda_service.pipeline.export_pack import export_pack

    flags = {
        "target.adapter": as_path(arguments.adapter),
        "pack": arguments.pack,
        "to": arguments.to,
        "form": arguments.form,
        "dialect": arguments.dialect,
        "num_prompts": arguments.num_prompts,
        "num_draft_tokens": arguments.num_draft_tokens,
    }
    run, config = open_task(arguments, ExportConfig, flags)
    logger.info("job %s in %s", run.job_id, run.root)
    record = export_pack(run, config)
    logger.info("%s", record.serve_command)


if __name__ == "__main__":
    main(arguments_of_export(), run_export)
