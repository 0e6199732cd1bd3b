"""`eda packs ...`: what adaptations have published: look, compare, pin, deploy, remove, and carry to a hub and back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eda_service.cli.arguments import as_path, complete_pack
from eda_service.cli.console import Commands, JsonOption, UrlOption, connect, err, example, out, print_json
from eda_service.cli.deployments.deployments import (
    ForceOption,
    ReplicasOption,
    WaitOption,
    replicas_of,
    show_change,
    wait_ready,
)
from eda_service.cli.packs import pack_view
from eda_service.errors import InputError
from eda_service.references import Reference

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Packs: what they gain, which one is meant, where they serve; to a hub and back.",
    epilog=example("eda packs ls"),
)

PackArgument = Annotated[
    str,
    typer.Argument(
        metavar="PACK",
        help="name@3, name@latest, name@champion; a name: the pinned or newest.",
        autocompletion=complete_pack,
    ),
]
VersionArgument = Annotated[str, typer.Argument(metavar="PACK", help="name@3.", autocompletion=complete_pack)]
RepoArgument = Annotated[
    str, typer.Argument(metavar="REPO", help="owner/name on the model hub (HF_ENDPOINT), or a directory as ./name.")
]


@app.command("ls", epilog=example("eda packs ls --json"))
def ls(
    name: Annotated[
        str | None, typer.Argument(help="One pack's versions; default: all packs.", autocompletion=complete_pack)
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List packs and their versions, with what they gain and which is the champion or pinned."""
    with connect(url) as client:
        packs = list(client.packs.iterate()) if name is None else [client.packs.get(name)]
    if as_json:
        print_json([each.model_dump(mode="json") for each in packs])
        return
    typer.echo(pack_view.packs_table(packs) if packs else "no packs; `eda adapt TARGET` makes one")


@app.command(epilog=example("eda packs show smollm2-135m-math@1"))
def show(pack: PackArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show one version: all numbers, its settings, what it was made from, and where it serves."""
    with connect(url) as client:
        found = client.packs.version(pack)
    print_json(found) if as_json else typer.echo(pack_view.pack_text(found))


@app.command(epilog=example("eda packs compare smollm2-135m-math@2 smollm2-135m-math@1"))
def compare(
    pack: PackArgument,
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", help="Likewise; default: the champion.", autocompletion=complete_pack),
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Two packs on the same prompts, where a measurement has both; else why they cannot be compared."""
    with connect(url) as client:
        found = client.packs.compare(pack, other)
    print_json(found) if as_json else typer.echo(pack_view.comparison_text(found))


@app.command(epilog=example("eda packs pin smollm2-135m-math@1", "eda packs pin smollm2-135m-math --off"))
def pin(
    pack: Annotated[
        str, typer.Argument(metavar="PACK", help="name@3; with --off the name.", autocompletion=complete_pack)
    ],
    off: Annotated[
        bool, typer.Option("--off", help="Unpin: the newest, and the best measured, are meant again.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which version a pack's name alone means; where it is served, no job's pack replaces it."""
    asked = Reference.parse(pack)
    if asked is None or (asked.number is None and not off):
        raise InputError(f"{pack[:96]!r} names no version; write one like name@3", param="pack")
    if off and asked.version is not None:
        raise InputError(f"--off unpins whatever is pinned; write {asked.name} alone", param="pack")
    with connect(url) as client:
        found = client.packs.pin_champion(asked.name, None if off else asked.number)
    if as_json:
        print_json(found)
    elif off:
        out.print(f"nothing is pinned; {asked.name} means {asked.name}@{found.latest}", markup=False)
    else:
        out.print(f"{asked.name} means {pack}; deployments keep what they have until they are changed", markup=False)


@app.command(
    epilog=example(
        "eda packs deploy smollm2-135m-math@1 --wait", "eda packs deploy support@2 --name support-eu --replicas 1-4"
    )
)
def deploy(
    pack: PackArgument,
    name: Annotated[str | None, typer.Option(help="Name at /v1/models; default: the pack's.")] = None,
    model: Annotated[str | None, typer.Option(help="Where its target is now; default: where its job found it.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Likewise its LoRA adapter.")] = None,
    replicas: ReplicasOption = None,
    force: ForceOption = False,
    wait: WaitOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a pack over the target that it was made for."""
    body: dict[str, Any] = {"pack": pack, "force": force}
    given = {"model": model, "adapter": adapter}
    body |= {key: as_path(value) for key, value in given.items() if value is not None}
    if name is not None:
        body["name"] = name
    elif model is not None:
        found = Reference.parse(pack)
        body |= {} if found is None else {"name": found.name}
    if replicas is not None:
        body["replicas"] = replicas_of(replicas, None)
    with connect(url) as client:
        made = client.deployments.create(body)
        if wait:
            made = wait_ready(client, made.name)
    show_change(made, as_json)


@app.command(epilog=example("eda packs rm smollm2-135m-math@1"))
def rm(
    pack: VersionArgument,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a version; refused while a deployment, a live job or a pin uses it."""
    with connect(url) as client:
        gone = client.packs.delete(pack)
    print_json({"id": gone, "deleted": True}) if as_json else out.print(f"removed {gone}", markup=False)


@app.command(
    epilog=example(
        "eda packs push smollm2-135m-math@1 owner/smollm2-135m-math-pack --dry-run",
        "eda packs push support@2 ./support-pack --license apache-2.0 --base-model org/support",
    )
)
def push(
    pack: Annotated[
        str,
        typer.Argument(
            metavar="PACK",
            help="name@3 in the home of this machine; a name: the newest.",
            autocompletion=complete_pack,
        ),
    ],
    repo: RepoArgument,
    licence: Annotated[str | None, typer.Option("--license", help="The hub's id of one, like apache-2.0.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The hub's id of its target, where that was a directory.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="A repository that is made can be seen by all.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the model card, and send nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a pack with a model card into a repository on the model hub, or into a directory."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from eda_service.export.repositories import pack_push

    if not err.is_terminal:
        disable_progress_bars()  # they are drawn where nobody looks, too
    made = pack_push.prepare(pack, repo, licence=licence, base_model=base_model)
    sent = None if dry_run else pack_push.push(made, public=public)
    if as_json:
        print_json({"pack": made.manifest.pack, "repo": repo, "pushed": sent, "card": made.card})
    elif sent is None:
        out.print(made.card, markup=False, end="")
    else:
        out.print(f"pushed {made.manifest.pack} to {sent}", markup=False)


@app.command(
    epilog=example("eda packs pull owner/smollm2-135m-math-pack", "eda packs pull ./support-pack --name support")
)
def pull(
    repo: RepoArgument,
    name: Annotated[str | None, typer.Option(help="To register it under; default: its own name.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a pack, verify it, and register it in the home of this machine, whole or not at all."""
    from eda_service.export.repositories.pack_pull import pull as pull_pack
    from eda_service.export.repositories.pack_source import find_source

    made = pull_pack(find_source(repo, revision), name=name)
    if as_json:
        print_json(made)
        return
    out.print(f"registered {made.pack} over {made.base_draft}, from {made.source}", markup=False)
    err.print(
        "it is everybody's at this service, and its numbers were measured elsewhere; next: "
        f"`eda packs deploy {made.pack} --wait`",
        markup=False,
    )
