"""`eda adapt TARGET`: make a job of the command line, and watch it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from eda_service.cli.arguments import as_pair, as_pairs, as_path, complete_draft, complete_preset, complete_target
from eda_service.cli.console import (
    IdempotencyOption,
    JsonOption,
    UrlOption,
    WatchOption,
    connect,
    detachable,
    err,
    out,
    print_json,
)
from eda_service.cli.data.uploads import PromptsOption, UploadOption, prompt_source
from eda_service.cli.jobs import outcome, view
from eda_service.cli.jobs.job_file import read_job_file
from eda_service.cli.jobs.jobs import finish, require_served
from eda_service.client import ApiError, Client
from eda_service.config.overrides import merge, parse_assignments
from eda_service.errors import InputError
from eda_service.records import STAGES

_UNSAID: dict[str, Any] = {"priority": 50, "config": {}, "metadata": {}, "force": False}
_STAGES = tuple(stage.value for stage in STAGES)


def adapt(
    target: Annotated[
        str | None,
        typer.Argument(
            show_default=False,
            help="Hugging Face id, local directory, or the name of a shipped target; --config may name it.",
            autocompletion=complete_target,
        ),
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter on top: id or directory.")] = None,
    base_draft: Annotated[
        str | None, typer.Option(help="Registered base draft, name@version.", autocompletion=complete_draft)
    ] = None,
    data: PromptsOption = None,
    eval_data: Annotated[
        str | None,
        typer.Option(
            help="Held-out prompts for the evaluation; without it they are split off --data, if that is given."
        ),
    ] = None,
    upload: UploadOption = None,
    num_prompts: Annotated[int | None, typer.Option(min=8, help="Prompts used.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="demo, paper, paper_7b, 8b, 70b, 235b or best.", autocompletion=complete_preset)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name at /v1/models.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Root of every random stream.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=100, show_default="50", help="Higher runs first.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A whole job as YAML or JSON; every flag wins over it."),
    ] = None,
    no_deploy: Annotated[
        bool, typer.Option("--no-deploy", help="Publish the pack and leave what is served as it is.")
    ] = False,
    min_gain: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=10.0,
            metavar="RATIO",
            help="Serve the pack if its acceptance is this many times that of what it would replace (1.02).",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Any field of the config; repeatable.")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="Your own pairs; repeatable.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Queue it all the same: although an equal job is live, disk, CPUs or GPUs are short, a tracker is "
            "missing here, or the model hub cannot be asked.",
        ),
    ] = False,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="https URL told of the job's end.")] = None,
    webhook_secret: Annotated[
        str | None,
        typer.Option(
            envvar="EDA_WEBHOOK_SECRET",
            show_envvar=True,
            help="Signs the webhook; better in the environment than here.",
        ),
    ] = None,
    deadlines: Annotated[
        list[str] | None,
        typer.Option("--stage-deadline", metavar="STAGE=SECONDS", help="Fail when a stage takes longer; repeatable."),
    ] = None,
    idempotency_key: IdempotencyOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the job would need, and queue nothing.")] = False,
    watch: WatchOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Adapt the base draft to a fine-tuned target, and serve the pair; what it needs is printed before it is queued."""
    given: dict[str, Any] = {
        "model": None if target is None else as_path(target),
        "adapter": None if adapter is None else as_path(adapter),
        "base_draft": base_draft,
        "preset": preset,
        "served_name": name,
        "seed": seed,
        "priority": priority,
        "deploy": False if no_deploy else None,
        "min_gain": min_gain,
        "config": parse_assignments(overrides or []) or None,
        "metadata": as_pairs(labels or [], "--metadata") or None,
        "force": force or None,
        "webhook": _webhook(webhook, webhook_secret),
        "stage_deadlines": _deadlines(deadlines or []) or None,
    }
    in_file = {} if config is None else read_job_file(config)
    body = merge(merge(_UNSAID, in_file), _said(given))
    if body.get("model") is None and config is None:
        raise InputError("name a target, as the first argument or as `model` in --config", param="model")
    with connect(url) as client:
        body = merge(body, _datasets(client, data, eval_data, num_prompts, upload))
        if dry_run:
            estimate = client.estimate(body)
            print_json(estimate) if as_json else typer.echo(view.estimate_text(estimate))
            return
        if not as_json:
            _show_estimate(client, body)
        job = client.create(body, idempotency_key=idempotency_key)
        if watch:
            with detachable(job.id, url):
                out.print(f"job {job.id}") if not as_json else None
                ended = view.watch(client, job.id)
                outcome.show_outcome(ended)
                finish(ended, as_json)
                require_served(client, ended)
                outcome.show_next(ended, client.base_url)
        elif as_json:
            print_json(job)
        else:
            out.print(f"{job.id} {view.coloured(job.status)}; watch it with `eda jobs watch {job.id}`")


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    """What flags have set; without a value a flag has said nothing."""
    return {key: value for key, value in given.items() if value is not None}


def _datasets(
    client: Client, data: str | None, eval_data: str | None, num_prompts: int | None, upload: bool | None
) -> dict[str, Any]:
    """The prompts of a job, those of files that were sent by their ids."""
    sources = [None if each is None else prompt_source(client, each, upload) for each in (data, eval_data)]
    dataset = _said({"source": sources[0], "num_prompts": num_prompts})
    found: dict[str, Any] = {"dataset": dataset} if dataset else {}
    return found if sources[1] is None else {**found, "eval_dataset": {"source": sources[1]}}


def _show_estimate(client: Client, body: Mapping[str, Any]) -> None:
    """What the job will need, on standard error, so that what a script reads is the job alone.

    A request that is refused here is refused for the same reason a moment later, unless its key is a repeated one.
    """
    with contextlib.suppress(ApiError):
        err.print(view.estimate_text(client.estimate(body)), markup=False)


def _webhook(url: str | None, secret: str | None) -> dict[str, str] | None:
    if url is None:
        return None  # a secret in the environment is for those calls that have a webhook
    return {"url": url} if secret is None else {"url": url, "secret": secret}


def _deadlines(texts: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        stage, seconds = as_pair(text, "--stage-deadline")
        if stage not in _STAGES or not (seconds.isascii() and seconds.isdigit()) or int(seconds) < 1:
            raise InputError(
                f"--stage-deadline {text!r} is not STAGE=SECONDS with a whole number above 0; stages are "
                f"{', '.join(_STAGES)}",
                param="stage_deadlines",
            )
        found[stage] = int(seconds)
    return found
