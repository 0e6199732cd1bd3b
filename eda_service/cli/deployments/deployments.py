"""`eda deployments ...`: what the endpoint serves: make, look, swap packs, roll back, remove."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any, Literal

import typer

from eda_service.cli.arguments import (
    as_pairs,
    as_path,
    complete_deployment,
    complete_draft,
    complete_pack,
    complete_target,
)
from eda_service.cli.console import Commands, JsonOption, UrlOption, connect, err, example, out, print_json
from eda_service.cli.jobs import view
from eda_service.client import Client, Deployment, DeploymentEvent, Revision
from eda_service.client.calls.deployment_calls import UNSET
from eda_service.config.overrides import json_or_text
from eda_service.errors import InputError
from eda_service.formatting import duration, size

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="What the endpoint serves: deploy, swap packs, roll back, remove.",
    epilog=example("eda deployments ls"),
)

_RANGE = re.compile(r"^([0-9]{1,6})(?:-([0-9]{1,6}))?$")
_COLOURS = {"ready": "green", "failed": "red", "loading": "cyan", "pending": "yellow"}
_READY_TIMEOUT_S = 600.0

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name at /v1/models.", autocompletion=complete_deployment)
]
ReplicasOption = Annotated[
    str | None, typer.Option("--replicas", metavar="N|MIN-MAX", help="A number, or a range to scale in.")
]
RoundOption = Annotated[
    int | None, typer.Option(min=1, max=60_000, help="In a range: another replica when rounds take longer.")
]
VllmOption = Annotated[
    list[str] | None,
    typer.Option("--vllm", metavar="FIELD=VALUE", help="Of engine vllm: form=dense, num_draft_tokens=4."),
]
DriftOption = Annotated[
    list[str] | None,
    typer.Option("--drift", metavar="FIELD=VALUE", help="Of the drift watch: below=0.7, keep_prompts=500, adapt=true."),
]
LabelsOption = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Repeatable.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Also a pack that measured worse than what it replaces.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Also where another deployment gets slower by it.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="For the history.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Come back once it is ready; exit code 1 when it fails.")]


@app.command("ls", epilog=example("eda deployments ls --json"))
def ls(
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most this many.")] = 100,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List deployments by name."""
    with connect(url) as client:
        page = client.deployments.page(limit=limit)
    if as_json:
        print_json([_plain(each) for each in page])
        return
    typer.echo(_table(list(page)) if len(page) else "no deployments")
    if page.has_more:
        err.print("there are more; raise --limit")


@app.command(epilog=example("eda deployments show math --json"))
def show(name: NameArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show one deployment with its history."""
    with connect(url) as client:
        found = client.deployments.get(name)
    if as_json:
        print_json(found)
        return
    typer.echo(_table([found]))
    for line in _detail_lines(found):
        typer.echo(line)
    typer.echo(_history(found.revisions))


@app.command(epilog=example("eda deployments events math --json"))
def events(
    name: NameArgument,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most this many.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened to a deployment, newest first: what did not load, acceptance that fell or rose."""
    with connect(url) as client:
        page = client.deployments.events(name, limit=limit)
    if as_json:
        print_json([each.model_dump(mode="json") for each in page])
        return
    typer.echo(_events(list(page)) if len(page) else f"nothing has happened to {name}")
    if page.has_more:
        err.print("there are more; raise --limit")


@app.command(
    epilog=example(
        "eda deployments create smollm2-135m-math --pack smollm2-135m-math@champion --wait",
        "eda deployments create org/model --adapter org/lora --name support --base-draft my-draft@2 --replicas 1-4",
    )
)
def create(
    model: Annotated[
        str, typer.Argument(help="Target: hub id, shipped name or directory.", autocompletion=complete_target)
    ],
    name: Annotated[str | None, typer.Option(help="Name at /v1/models; default: the last part of the target.")] = None,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter on top of the model.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model.")] = None,
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the target's weights.")] = "auto",
    base_draft: Annotated[
        str | None, typer.Option(help="name@version; default: the pack's.", autocompletion=complete_draft)
    ] = None,
    no_draft: Annotated[bool, typer.Option("--no-draft", help="Serve without speculation.")] = False,
    pack: Annotated[
        str | None, typer.Option(help="name@3, name@latest or name@champion.", autocompletion=complete_pack)
    ] = None,
    replicas: ReplicasOption = None,
    round_ms: RoundOption = None,
    engine: Annotated[Literal["eda", "vllm"], typer.Option(help="Who decodes.")] = "eda",
    accelerator: Annotated[Literal["cpu", "gpu"] | None, typer.Option(help="What vLLM computes on.")] = None,
    vllm: VllmOption = None,
    drift: DriftOption = None,
    labels: LabelsOption = None,
    force: ForceOption = False,
    yes: YesOption = False,
    wait: WaitOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a target under a name."""
    if no_draft and base_draft is not None:
        raise InputError("--no-draft and --base-draft exclude each other; give one", param="base_draft")
    body: dict[str, Any] = {"dtype": dtype, "labels": as_pairs(labels or [], "--label"), "force": force}
    body |= {"model": as_path(model), "engine": engine, "confirm": yes}
    given = {"name": name, "revision": revision, "base_draft": base_draft, "pack": pack, "accelerator": accelerator}
    given["adapter"] = None if adapter is None else as_path(adapter)
    body |= {key: value for key, value in given.items() if value is not None}
    if no_draft:
        body["base_draft"] = None
    if replicas is not None or round_ms is not None:
        body["replicas"] = replicas_of(replicas, round_ms)
    if vllm is not None:
        body["vllm"] = _fields(vllm, "--vllm")
    if drift is not None:
        body["drift"] = _fields(drift, "--drift")
    with connect(url) as client:
        made = client.deployments.create(body)
        for warning in made.warnings:
            err.print(f"[yellow]note[/] {warning}")
        if wait:
            made = wait_ready(client, made.name)
    show_change(made, as_json)


@app.command(
    epilog=example(
        "eda deployments update math --pack math@latest --wait",
        "eda deployments update math --replicas 1-4 --round-ms 80",
        "eda deployments update math --drift below=0.7 --drift keep_prompts=500 --drift adapt=true",
    )
)
def update(
    name: NameArgument,
    pack: Annotated[
        str | None, typer.Option(help="name@3, name@latest or name@champion.", autocompletion=complete_pack)
    ] = None,
    no_pack: Annotated[bool, typer.Option("--no-pack", help="The base draft alone.")] = False,
    replicas: ReplicasOption = None,
    round_ms: RoundOption = None,
    drift: DriftOption = None,
    labels: LabelsOption = None,
    force: ForceOption = False,
    reason: ReasonOption = None,
    wait: WaitOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Swap the pack, or change replicas, drift watch or labels; running requests end as they began."""
    if no_pack and pack is not None:
        raise InputError("--no-pack and --pack exclude each other; give one", param="pack")
    with connect(url) as client:
        changed = client.deployments.update(
            name,
            pack=None if no_pack else UNSET if pack is None else pack,
            replicas=None if replicas is None and round_ms is None else replicas_of(replicas, round_ms),
            drift=None if drift is None else _fields(drift, "--drift"),
            labels=None if labels is None else as_pairs(labels, "--label"),
            force=force,
            reason=reason,
        )
        if wait:
            changed = wait_ready(client, name)
    show_change(changed, as_json)


@app.command(epilog=example("eda deployments rollback math", "eda deployments rollback math --revision 3"))
def rollback(
    name: NameArgument,
    revision: Annotated[int | None, typer.Option(min=1, help="Default: the last that served something else.")] = None,
    reason: ReasonOption = None,
    wait: WaitOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve again what an earlier revision served."""
    with connect(url) as client:
        changed = client.deployments.rollback(name, revision=revision, reason=reason)
        if wait:
            changed = wait_ready(client, name)
    show_change(changed, as_json)


@app.command(epilog=example("eda deployments restart math --wait"))
def restart(name: NameArgument, wait: WaitOption = False, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Load a deployment that has failed once more, after its reason was put right."""
    with connect(url) as client:
        changed = client.deployments.restart(name)
        if wait:
            changed = wait_ready(client, name)
    show_change(changed, as_json)


@app.command(epilog=example("eda deployments rm math"))
def rm(name: NameArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Stop serving a name; running requests end, its packs stay."""
    with connect(url) as client:
        client.deployments.delete(name)
    print_json({"name": name, "deleted": True}) if as_json else typer.echo(f"removed {name}")


def replicas_of(text: str | None, round_ms: int | None) -> int | dict[str, int]:
    """What `--replicas` and `--round-ms` say.

    Raises:
        InputError: They are neither a number nor a range.
    """
    found = None if text is None else _RANGE.match(text)
    if text is not None and found is None:
        raise InputError(f"--replicas {text[:32]!r} is neither a number nor MIN-MAX, such as 1-4", param="replicas")
    low, high = (None, None) if found is None else found.groups()
    if round_ms is not None and high is None:
        raise InputError("--round-ms scales within a range; give one as --replicas MIN-MAX", param="replicas")
    if high is None:
        return int(low or 1)
    scale = {"min": int(low or 1), "max": int(high)}
    if scale["min"] > scale["max"]:
        raise InputError(f"--replicas {text}: {low} is above {high}; exchange them", param="replicas")
    return scale if round_ms is None else {**scale, "round_ms": round_ms}


def _fields(texts: list[str], option: str) -> dict[str, Any]:
    """Settings as `FIELD=VALUE`, as `--set` of `eda adapt` takes them."""
    found = {name: json_or_text(text) for name, text in as_pairs(texts, option).items()}
    for name, value in found.items():
        if isinstance(value, str) and value.startswith(("[", "{", '"')):
            raise InputError(
                f"{option} {name}: {value[:64]!r} is no JSON value; close its quotes and brackets",
                param=option.removeprefix("--"),
            )
    return found


def _plain(deployment: Deployment) -> dict[str, Any]:
    return deployment.model_dump(mode="json", exclude={"drift", "revisions"})


def show_change(deployment: Deployment, as_json: bool) -> None:
    """What a deployment is after a change, in one line."""
    if as_json:
        print_json(_plain(deployment))
        return
    colour = _COLOURS.get(deployment.state, "default")
    served = deployment.pack or deployment.base_draft or "no draft"
    out.print(f"{deployment.name} [{colour}]{deployment.state}[/] revision {deployment.revision}: {served}")


def _table(deployments: list[Deployment]) -> str:
    rows = [("NAME", "STATE", "PACK", "BASE DRAFT", "ACCEPTANCE", "REPLICAS", "REVISION", "GROUP", "MODEL")]
    for each in deployments:
        target = f"{each.model} + {each.adapter}" if each.adapter else each.model
        measured = each.evaluation
        rows.append(
            (
                each.name,
                each.state,
                each.pack or "-",
                each.base_draft or "-",
                "-" if measured is None else f"{measured.acceptance_length:.2f}",
                f"{each.replicas.running}/{each.replicas.max}",
                str(each.revision),
                each.group,
                target,
            )
        )
    return view.columns(rows)


def wait_ready(client: Client, name: str) -> Deployment:
    """Wait until requests get what a deployment wants, and say so meanwhile."""
    with err.status(f"waiting until {name} is ready"):
        return client.deployments.wait_ready(name, timeout_s=_READY_TIMEOUT_S)


def _detail_lines(deployment: Deployment) -> list[str]:
    lines = [] if deployment.reason is None else [f"reason  {deployment.reason}"]
    if deployment.state == "failed":
        lines.append(f"next    put that right, then `eda deployments restart {deployment.name}`")
    if deployment.loaded_pack != deployment.pack:
        lines.append(f"serves  {deployment.loaded_pack or 'no pack'} until then")
    sizes = {} if deployment.memory is None else deployment.memory.model_dump()
    known = [f"{name.removesuffix('_bytes')} {size(each)}" for name, each in sizes.items() if each is not None]
    if known:
        lines.append(f"memory  {', '.join(known)}")
    return lines + _drift_lines(deployment)


def _drift_lines(deployment: Deployment) -> list[str]:
    drift = deployment.drift
    if drift is None or drift.acceptance_length is None or drift.expected is None:
        return []
    verdict = "fallen" if drift.is_below else "as expected"
    return [f"drift   acceptance {drift.acceptance_length:.2f} of {drift.expected:.2f}: {verdict}"]


def _events(events: list[DeploymentEvent]) -> str:
    rows = [("ID", "AGE", "TYPE", "MESSAGE")]
    rows += [(str(each.id), duration(time.time() - each.created_at), each.type, each.message) for each in events]
    return view.columns(rows)


def _history(revisions: tuple[Revision, ...]) -> str:
    rows = [("REVISION", "AGE", "PACK", "AS WRITTEN", "BY", "WHY")]
    for each in revisions:
        age = duration(time.time() - each.created_at)
        rows.append((str(each.revision), age, each.pack or "-", each.pack_ref or "-", each.made_by, each.reason))
    return view.columns(rows)
