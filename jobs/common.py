"""What the entry points share: arguments to an AdaptConfig and a run directory, logging, exit codes.

Exit codes: 0 done, 1 the job failed with a code, 2 the arguments are wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eda_service.config.field_names import unknown_field
from eda_service.config.job import AdaptConfig
from eda_service.config.presets import merge, on_preset, preset
from eda_service.errors import EdaError, InputError, NotFoundError
from eda_service.private_files import keep_private
from eda_service.storage.run import RunDir, home_dir

logger = logging.getLogger("jobs")


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments every entry point takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--job-id", help="run or resume this job; its run directory is under EDA_HOME/runs")
    made.add_argument("--config", type=Path, help="JSON file with an AdaptConfig (or overrides of --preset)")
    made.add_argument("--target", help="model id, directory, or name of a shipped target")
    made.add_argument("--adapter", help="LoRA adapter: id or directory")
    made.add_argument("--base-draft", help="name@version")
    made.add_argument("--data", help="JSONL file, Hugging Face dataset id, reasoning-gym:<task>, or self")
    made.add_argument("--eval-data", help="held-out prompts; with --data and without it, they are split off --data")
    made.add_argument("--num-prompts", type=int)
    made.add_argument("--preset", help="demo, paper, paper_7b, 70b or best")
    made.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="any field of AdaptConfig")
    return made


def build_config(arguments: argparse.Namespace) -> AdaptConfig:
    """Preset, then file, then flags, then --set.

    Raises:
        InputError: A value is out of bounds or a field is unknown; the message names it.
    """
    values: dict[str, Any] = {}
    if arguments.config:
        try:
            values = merge(values, json.loads(arguments.config.read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"--config {arguments.config}: {error}", param="config") from error
    flags = {
        "target.model": _as_path(arguments.target),
        "target.adapter": _as_path(arguments.adapter),
        "base_draft": arguments.base_draft,
        "dataset.source": _as_path(arguments.data),
        "dataset.num_prompts": arguments.num_prompts,
        "eval_dataset.source": _as_path(arguments.eval_data),
    }
    for path, value in flags.items():
        if value is not None:
            values = merge(values, nested(path, value))
    for assignment in arguments.set:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment!r} has no '='; write --set train.epochs=4", param="set")
        values = merge(values, nested(path, _value(text)))
    values = on_preset(preset(arguments.preset) if arguments.preset else {}, values)
    try:
        return AdaptConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        is_unknown = first["type"] == "extra_forbidden"
        problem = unknown_field(AdaptConfig, first["loc"]) if is_unknown else first["msg"]
        raise InputError(f"{where or 'config'}: {problem}", param=where or None) from error


def _as_path(value: str | None) -> str | None:
    """What is there, seen from here, as an absolute path; stages take a name without one for an id."""
    return str(Path(value).absolute()) if value and os.path.exists(value) else value


def config_of_paths(settings: Mapping[str, Any]) -> AdaptConfig:
    """An AdaptConfig from values by dotted path."""
    values: dict[str, Any] = {}
    for path, value in settings.items():
        values = merge(values, nested(path, value))
    return AdaptConfig.model_validate(values)


def nested(path: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value to {"a": {"b": value}}."""
    head, dot, rest = path.partition(".")
    return {head: nested(rest, value) if dot else value}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def open_run(arguments: argparse.Namespace) -> tuple[RunDir, AdaptConfig]:
    """The run directory of --job-id, or a new one with origin `ray`.

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
    """The config of --job-id, or that of the other arguments; nothing is made.

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


def new_job_id() -> str:
    """`adapt_` and 26 characters that sort by time."""
    return f"adapt_{int(time.time() * 1000):012x}{secrets.token_hex(7)}"


def main(made: argparse.ArgumentParser, body: Callable[[argparse.Namespace], None]) -> None:
    """Parse, run, and turn our errors into one line and an exit code."""
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
