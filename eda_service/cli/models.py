"""`eda models ...`: what is served and registered, and fetching a shipped target."""

from __future__ import annotations

from typing import Annotated

import typer

from eda_service.cli.arguments import complete_target
from eda_service.cli.bars import bars
from eda_service.cli.console import Commands, JsonOption, UrlOption, connect, err, example, out, print_json
from eda_service.client import ServiceUnreachableError
from eda_service.storage.published.registry import list_drafts
from eda_service.storage.runs.run import home_dir

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Models that are served, base drafts, shipped targets.",
    epilog=example("eda models ls"),
)


@app.command("ls", epilog=example("eda models ls --json"))
def ls(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List what the endpoint serves and which base drafts there are."""
    with connect(url) as client:
        try:
            served = client.models()
        except ServiceUnreachableError:
            served = []
            err.print("the service is not running: nothing is served")
    found = {"served": served, "base_drafts": list_drafts(home_dir())}
    if as_json:
        print_json(found)
        return
    for kind, names in found.items():
        for name in names:
            out.print(f"{kind.replace('_', ' ').rstrip('s'):<11} {name}")


@app.command(epilog=example("eda models fetch smollm2-135m-math"))
def fetch(
    name: Annotated[
        str, typer.Argument(help="Shipped or embedded target, directory or hub id.", autocompletion=complete_target)
    ],
    as_json: JsonOption = False,
) -> None:
    """Bring a target to this machine, so that the first job need not."""
    from eda_service.config.job import TargetSpec
    from eda_service.targets.embedded import source_note
    from eda_service.targets.files.resolve import resolve_target

    with bars() as on_progress:
        resolved = resolve_target(TargetSpec(model=name), on_progress)
    note = source_note(resolved.model_dir)
    if note:
        err.print(f"{resolved.model}: {note}")
    if as_json:
        print_json({"model": resolved.model, "model_dir": str(resolved.model_dir)})
    else:
        typer.echo(str(resolved.model_dir))
