"""`eda drafts ...`: bring a draft that you have, look at those that there are, remove one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eda_service.cli.arguments import as_pairs, as_path, complete_draft
from eda_service.cli.console import (
    Commands,
    ForceOption,
    IdempotencyOption,
    JsonOption,
    UrlOption,
    UseGpuOption,
    WatchOption,
    connect,
    detachable,
    err,
    example,
    out,
    print_json,
)
from eda_service.cli.jobs import task_view
from eda_service.cli.jobs.measure import finish
from eda_service.client import Client, Job

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Base drafts: import one that you have, look at them, remove one.",
    epilog=example("eda drafts ls"),
)

DraftArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="name@version; without a version the newest.", autocompletion=complete_draft),
]
TargetOption = Annotated[
    str, typer.Option("--target", metavar="BASE", help="Base target: hub id, local directory, or shipped name.")
]


@app.command(
    "import",
    epilog=example(
        "eda drafts import org/eagle3-llama-8b --target org/llama-8b --watch",
        "eda drafts import ./my-draft --target ./my-base --name ours --set rope_theta=500000 --no-check",
    ),
)
def import_(
    source: Annotated[str, typer.Argument(help="The draft: a directory, or an id on the model hub.")],
    target: TargetOption,
    name: Annotated[str | None, typer.Option(help="To register it under; default: the last part of SOURCE.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the draft's shape, by hand; repeatable."),
    ] = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Register it without measuring it.")] = False,
    num_check_prompts: Annotated[int | None, typer.Option(min=1, max=128, help="Answers of the check (20).")] = None,
    revision: Annotated[str | None, typer.Option(help="Of the source on the hub: branch, tag or commit.")] = None,
    target_revision: Annotated[str | None, typer.Option(help="Of the target on the hub.")] = None,
    use_gpu: UseGpuOption = False,
    force: ForceOption = False,
    idempotency_key: IdempotencyOption = None,
    watch: WatchOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a draft in its dialect, check it over answers of its base target, and register it as name@version."""
    given: dict[str, Any] = {
        "source": as_path(source),
        "source_revision": revision,
        "model": as_path(target),
        "revision": target_revision,
        "name": name,
        "overrides": as_pairs(overrides or [], "--set"),
        "check": not no_check,
        "num_check_prompts": num_check_prompts,
        "use_gpu": use_gpu or None,
        "force": force,
    }
    with connect(url) as client:
        body = {key: value for key, value in given.items() if value is not None}
        job = client.drafts.create(body, idempotency_key=idempotency_key)
        if not watch:
            _show_queued(job, as_json)
            return
        with detachable(job.id, url):
            ended = task_view.watch(client, job.id)
            if not as_json and ended.status == "succeeded" and ended.result:
                typer.echo(task_view.draft_text(client.drafts.get(ended.result)))
            finish(ended, as_json)


@app.command("ls", epilog=example("eda drafts ls --json"))
def ls(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List base drafts: shipped, trained here, imported."""
    with connect(url) as client:
        drafts = list(client.drafts.iterate())
    if as_json:
        print_json([draft.model_dump(mode="json") for draft in drafts])
        return
    typer.echo(task_view.drafts_table(drafts) if drafts else "no drafts")
    if any(draft.best_reading for draft in drafts):
        err.print("* its check found a reading that accepts more; `eda drafts show` says which")


@app.command(epilog=example("eda drafts show smollm2-135m@3"))
def show(draft: DraftArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show one draft: what was assumed, what was set by hand, its check, and the packs over it."""
    with connect(url) as client:
        found = client.drafts.get(draft)
    if as_json:
        print_json(found)
    else:
        typer.echo(task_view.draft_text(found))


@app.command(epilog=example("eda drafts check ours@1 --target org/llama-8b --watch"))
def check(
    draft: DraftArgument,
    target: TargetOption,
    num_prompts: Annotated[int, typer.Option(min=8, max=128, help="Answers of the target.")] = 20,
    use_gpu: UseGpuOption = False,
    watch: WatchOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the check of an import again, on a target whose weights are here now; nothing of the draft is changed."""
    with connect(url) as client:
        job = client.measurements.create(
            {
                "draft": draft,
                "model": as_path(target),
                "check": True,
                "dataset": {"source": "self", "num_prompts": num_prompts},
                **({"use_gpu": True} if use_gpu else {}),
            }
        )
        if not watch:
            _show_queued(job, as_json)
            return
        with detachable(job.id, url):
            ended = task_view.watch(client, job.id)
            if not as_json:
                _print_measured(client, ended)
            finish(ended, as_json, client)


@app.command(epilog=example("eda drafts rm ours@1"))
def rm(draft: DraftArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Remove a registered draft; refused while a pack, a live job or a deployment uses it."""
    with connect(url) as client:
        client.drafts.delete(draft)
    if as_json:
        print_json({"id": draft, "deleted": True})
    else:
        out.print(f"removed {draft}", markup=False)


def _print_measured(client: Client, job: Job) -> None:
    found = client.measurements.get(job.id).measurement
    if found is not None:
        typer.echo(task_view.measured_text(found))


def _show_queued(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        out.print(f"{job.id} {job.status}; watch it with `eda jobs watch {job.id}`", markup=False)
