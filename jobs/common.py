"""Common code of the entry points: from arguments to a job's config and a run directory, logging, exit codes.

Exit codes: 0 done, 1 the job failed with a code, 2 the arguments are wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from eda_service.config.job import AdaptConfig
from eda_service.config.overrides import at_paths, merge, parse_assignments
from eda_service.config.presets import on_preset, preset
from eda_service.config.removed import ASKED
from eda_service.config.tasks import ID_PREFIXES, ExportConfig, ImportConfig, JobKind, MeasureConfig, kind_of
from eda_service.errors import EdaError, InputError, NotFoundError
from eda_service.field_errors import first_error
from eda_service.ids import new_job_id
from eda_service.private_files import keep_private
from eda_service.storage.inputs import bounded_json
from eda_service.storage.runs.run import RunDir, home_dir

logger = logging.getLogger("jobs")

ConfigT = TypeVar("ConfigT", bound=BaseModel)
TaskT = TypeVar("TaskT", ImportConfig, MeasureConfig, ExportConfig)


def parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the arguments that every entry point takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--job-id", help="run or resume this job; its run directory is under EDA_HOME/runs")
    made.add_argument("--config", type=Path, help="JSON file with an AdaptConfig (or overrides of --preset)")
    made.add_argument("--target", help="model id, directory, or name of a shipped target")
    made.add_argument("--adapter", help="LoRA adapter: id or directory")
    made.add_argument("--base-draft", help="name@version")
    made.add_argument("--data", help="JSONL file, Hugging Face dataset id, reasoning-gym:<task>, or self")
    made.add_argument("--eval-data", help="held-out prompts; with --data and without it, they are split off --data")
    made.add_argument("--num-prompts", type=int)
    made.add_argument("--preset", help="demo, paper, paper_7b, 8b, 70b, 235b or best")
    made.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="any field of AdaptConfig")
    return made


def build_config(arguments: argparse.Namespace) -> AdaptConfig:
    """Build the config: preset, then file, then flags, then --set.

    Raises:
        InputError: A value is out of bounds or a field is unknown; the message names it.
    """
    values: dict[str, Any] = {}
    if arguments.config:
        try:
            values = bounded_json.parse(arguments.config.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("it holds no JSON object")
        except (OSError, ValueError) as error:
            raise InputError(f"--config {arguments.config}: {error}", param="config") from error
    flags = {
        "target.model": as_path(arguments.target),
        "target.adapter": as_path(arguments.adapter),
        "base_draft": arguments.base_draft,
        "dataset.source": as_path(arguments.data),
        "dataset.num_prompts": arguments.num_prompts,
        "eval_dataset.source": as_path(arguments.eval_data),
    }
    values = merge(values, at_paths({path: value for path, value in flags.items() if value is not None}))
    values = merge(values, parse_assignments(arguments.set))
    values = on_preset(preset(arguments.preset) if arguments.preset else {}, values)
    return parse_config(AdaptConfig, values)


def parse_config(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Parse values as a config.

    Raises:
        InputError: A value is out of bounds or a field is unknown; the message names it.
    """
    try:
        return kind.model_validate(values, context=ASKED)
    except ValidationError as error:
        raise first_error(error, kind) from error


def task_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the arguments of the entry points that are no adaptation."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--job-id", help="run or resume this job; its run directory is under EDA_HOME/runs")
    made.add_argument("--target", help="model id, directory, or name of a shipped target")
    made.add_argument("--revision", help="of the target on the hub: branch, tag or commit")
    made.add_argument("--seed", type=int, help="root of every random stream")
    made.add_argument("--use-gpu", action="store_true", default=None, help="reserve a GPU")
    return made


def open_task(arguments: argparse.Namespace, kind: type[TaskT], flags: Mapping[str, Any]) -> tuple[RunDir, TaskT]:
    """Open the run directory of --job-id, or a new one with origin `ray`.

    Args:
        arguments: Arguments parsed by a `task_parser`.
        kind: Class of the job's config.
        flags: Fields of the config by dotted path; None: the flag was not given.

    Raises:
        NotFoundError: --job-id names no job and no target is given.
        InputError: The config is wrong, or the job is of another kind.
    """
    prefix = ID_PREFIXES[JobKind(kind.model_fields["kind"].default)]
    run = RunDir.of_job(arguments.job_id or new_job_id(prefix=prefix))
    if run.is_job:
        task = run.task()
        if not isinstance(task, kind):
            raise InputError(
                f"job {run.job_id} is of kind {kind_of(task).value}; start its entry point", param="job-id"
            )
        return run, task
    if not arguments.target:
        raise NotFoundError(f"no job {run.job_id} under {home_dir() / 'runs'}; give --target", param="job-id")
    common = {
        "target.model": as_path(arguments.target),
        "target.revision": arguments.revision,
        "seed": arguments.seed,
        "use_gpu": arguments.use_gpu,
    }
    given = {path: value for path, value in {**common, **flags}.items() if value is not None}
    config = parse_config(kind, at_paths(given))
    run.create(config, origin="ray")
    return run, config


def as_path(value: str | None) -> str | None:
    """Return an existing path as an absolute one; stages take a name that is no absolute path for an id."""
    return str(Path(value).absolute()) if value and os.path.exists(value) else value


def config_of_paths(settings: Mapping[str, Any]) -> AdaptConfig:
    """Make an AdaptConfig from values by dotted path."""
    return AdaptConfig.model_validate(at_paths(settings), context=ASKED)


def open_run(arguments: argparse.Namespace) -> tuple[RunDir, AdaptConfig]:
    """Open the run directory of --job-id, or a new one with origin `ray`.

    Raises:
        NotFoundError: --job-id names no job and no config is given.
        InputError: The config is wrong.
    """
    run = RunDir.of_job(arguments.job_id or new_job_id())
    if run.is_job:
        return run, run.config()
    if not (arguments.config or arguments.target):
        raise NotFoundError(
            f"no job {run.job_id} under {home_dir() / 'runs'}; give --target (and --data), or --config", param="job-id"
        )
    config = build_config(arguments)
    run.create(config, origin="ray")
    return run, config


def config_of(arguments: argparse.Namespace) -> AdaptConfig:
    """Return the config of --job-id, or that of the other arguments; nothing is written.

    Raises:
        NotFoundError: --job-id names no job.
        InputError: The config is wrong.
    """
    if arguments.job_id is None:
        return build_config(arguments)
    run = RunDir.of_job(arguments.job_id)
    if not run.is_job:
        raise NotFoundError(f"no job {run.job_id} under {home_dir() / 'runs'}; leave --job-id out", param="job-id")
    return run.config()


def main(made: argparse.ArgumentParser, body: Callable[[argparse.Namespace], None]) -> None:
    """Parse the arguments, run the body, and turn our errors into one line and an exit code."""
    arguments = made.parse_args()
    keep_private()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        body(arguments)
    except InputError as error:
        field = f" ({error.param})" if error.param else ""
        logger.error("%s%s: %s", error.code, field, error.message)
        sys.exit(2)
    except EdaError as error:
        logger.error("%s: %s", error.code, error.message)
        sys.exit(1)
