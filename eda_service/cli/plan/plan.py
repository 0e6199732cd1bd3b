"""`eda plan`: what an adaptation of a target of some size needs, and what many a day do to a cluster."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from eda_service.cli.arguments import complete_preset, one_of
from eda_service.cli.console import Commands, JsonOption, example, out
from eda_service.config import presets
from eda_service.config.job import AdaptConfig
from eda_service.config.overrides import merge, parse_assignments
from eda_service.config.removed import ASKED
from eda_service.drafts.draft_config import CONFIGS
from eda_service.errors import InputError
from eda_service.field_errors import first_error
from eda_service.formatting import duration, percent, size
from eda_service.planning.constants import DEVICES
from eda_service.planning.plan import Plan
from eda_service.planning.shapes import SHAPES
from eda_service.planning.workload import PROMPT_TOKENS

app = typer.Typer(
    cls=Commands,
    help="Plan capacity; no service is asked.",
    invoke_without_command=True,
    epilog=example("eda plan --model 7b --gpus 8", "eda plan --model 7b --gpus 8 --set train.epochs=10 --json"),
)

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="135m, 1.5b, 7b, 8b, 14b, 32b, 70b, 235b, or a target here.",
        autocompletion=one_of(SHAPES),
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="h100, h200, a100, l40s, or core (a CPU core).", autocompletion=one_of(DEVICES))
]
PresetOption = Annotated[
    str,
    typer.Option("--preset", help="demo, paper, paper_7b, 8b, 70b, 235b or best.", autocompletion=complete_preset),
]
PromptOption = Annotated[float, typer.Option("--prompt-tokens", min=1, help="Mean tokens of a rendered prompt.")]
AnswerOption = Annotated[
    float | None, typer.Option("--answer-tokens", min=1, help="Mean tokens of an answer; default: the cap.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Any field of the config; repeatable.")
]
DraftOption = Annotated[
    str, typer.Option("--draft", help="Kind of the base draft: eagle1 or eagle3.", autocompletion=one_of(CONFIGS))
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="RUN", help="Run directory of a job that ended here: plan as fast as it was."),
]


@app.callback()
def plan(
    ctx: typer.Context,
    model: ModelOption = "7b",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Devices of one job.")] = 8,
    device: DeviceOption = "h100",
    preset: PresetOption = "paper_7b",
    prompt_tokens: PromptOption = PROMPT_TOKENS,
    answer_tokens: AnswerOption = None,
    overrides: SetOption = None,
    draft: DraftOption = "eagle1",
    calibrate_from: FromOption = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="NODESxGPUSxNAME",
            help="Whether such a cluster holds the job as the preset has it, e.g. 2x8xh100; instead of --gpus.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tokens, device-hours, disk, network and memory of one adaptation, stage by stage."""
    if ctx.invoked_subcommand is not None:
        return
    if cluster is not None:
        from eda_service.cli.plan.plan_cluster import cluster_text, parse_cluster

        there = parse_cluster(cluster)
        config, made = planned(
            model, None, there.device, preset, prompt_tokens, answer_tokens, overrides or [], calibrate_from, draft
        )
        typer.echo(json.dumps(as_dict(made), indent=2) if as_json else cluster_text(config, made, there))
        return
    made = plan_of(model, gpus, device, preset, prompt_tokens, answer_tokens, overrides or [], calibrate_from, draft)
    if as_json:
        typer.echo(json.dumps(as_dict(made), indent=2))
        return
    out.print(_table(made))
    kind = "measured" if made.device.is_measured else "assumed utilisation of published peaks"
    out.print(f"{made.device.name}: {made.device.source} ({kind})")
    for warning in made.warnings:
        out.print(f"warning: {warning}")


@app.command(epilog=example("eda plan simulate --variants-per-day 10 --variants-per-day 1000 --gpus 64 --disk-tb 20"))
def simulate(
    variants_per_day: Annotated[
        list[float], typer.Option("--variants-per-day", min=0.01, help="Mean jobs a day; repeatable.")
    ],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Devices of the cluster.")] = 64,
    gpus_per_job: Annotated[int, typer.Option("--gpus-per-job", min=1, help="Devices of one job.")] = 8,
    max_running: Annotated[
        int | None, typer.Option("--max-running", min=1, help="Jobs at a time; default: what the devices hold and one.")
    ] = None,
    disk_tb: Annotated[float | None, typer.Option("--disk-tb", min=0.001, help="Room for hidden states.")] = None,
    days: Annotated[float, typer.Option("--days", min=0.1, help="Simulated.")] = 30.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the arrivals.")] = 0,
    model: ModelOption = "7b",
    device: DeviceOption = "h100",
    preset: PresetOption = "paper_7b",
    prompt_tokens: PromptOption = PROMPT_TOKENS,
    answer_tokens: AnswerOption = None,
    overrides: SetOption = None,
    draft: DraftOption = "eagle1",
    calibrate_from: FromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue times, utilisation and the bottleneck when jobs arrive at random on a shared cluster."""
    from eda_service.planning.simulate import SimulatedLoad
    from eda_service.planning.simulate import simulate as run

    made = plan_of(
        model, gpus_per_job, device, preset, prompt_tokens, answer_tokens, overrides or [], calibrate_from, draft
    )
    disk_bytes = None if disk_tb is None else disk_tb * 1e12
    running = max_running or gpus // gpus_per_job + 1
    outcomes = {
        rate: run(made, SimulatedLoad(rate, gpus, max_running=running, disk_bytes=disk_bytes, days=days, seed=seed))
        for rate in variants_per_day
    }
    if as_json:
        typer.echo(json.dumps({f"{rate:g}": asdict(outcome) for rate, outcome in outcomes.items()}, indent=2))
        return
    columns = ("a day", "ended", "busy", "wait p50", "p99", "total p50", "p99", "bottleneck")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for rate, outcome in outcomes.items():
        times = (outcome.wait_p50_s, outcome.wait_p99_s, outcome.total_p50_s, outcome.total_p99_s)
        name = f"{outcome.bottleneck}, {outcome.most_per_day:.0f} a day" if outcome.saturated else outcome.bottleneck
        table.add_row(f"{rate:g}", f"{outcome.num_jobs}", percent(outcome.utilisation, 0), *map(duration, times), name)
    out.print(table)


def plan_of(
    model: str,
    gpus: int,
    device: str,
    preset: str,
    prompt_tokens: float,
    answer_tokens: float | None,
    overrides: list[str],
    calibrate_from: Path | None,
    draft: str = "eagle1",
) -> Plan:
    """The plan that a command line asks for.

    Raises:
        InputError: No such size, device, preset or kind of draft, or a field out of its bounds.
    """
    return planned(model, gpus, device, preset, prompt_tokens, answer_tokens, overrides, calibrate_from, draft)[1]


def planned(
    model: str,
    gpus: int | None,
    device: str,
    preset: str,
    prompt_tokens: float,
    answer_tokens: float | None,
    overrides: list[str],
    calibrate_from: Path | None,
    draft: str = "eagle1",
) -> tuple[AdaptConfig, Plan]:
    """A job, with the engine that its target will have, and its plan; `gpus` None: as many as the preset says.

    Raises:
        InputError: As `plan_of`, or the target's heads do not go into `tensor_parallel_size`.
    """
    from eda_service.planning.constants import DEVICES
    from eda_service.planning.engine_need import check_split, choose_engine
    from eda_service.planning.measured import measure
    from eda_service.planning.plan import make_plan
    from eda_service.planning.shapes import draft_of, shape_of
    from eda_service.planning.workload import Lengths

    if device not in DEVICES:
        raise InputError(f"no device {device!r}; there are {', '.join(DEVICES)}", param="device")
    config = _config(model, gpus, preset, overrides, on_gpu=DEVICES[device].memory_bytes is not None)
    shape = shape_of(model)
    chosen = choose_engine(config, shape, DEVICES[device]).config
    base_draft = draft_of(shape, draft)
    check_split(chosen.target, shape)
    lengths = Lengths(prompt_tokens, min(answer_tokens or math.inf, config.selfgen.max_new_tokens))
    calibration = None if calibrate_from is None else measure(calibrate_from).calibration(DEVICES[device])
    return chosen, make_plan(config, shape, DEVICES[device], lengths, calibration, base_draft)


def _config(model: str, gpus: int | None, preset: str, overrides: list[str], *, on_gpu: bool) -> AdaptConfig:
    said = parse_assignments(overrides)
    given = merge(presets.preset(preset), {"target": {"model": model}, "train": {"use_gpu": on_gpu}})
    if gpus is not None:
        settings = merge(given, said)["target"].get("vllm", {})
        ranks = int(settings.get("tensor_parallel_size", 1))
        sizes = {"selfgen": {"num_actors": max(1, gpus // ranks)}, "train": {"num_workers": gpus}}
        given = merge(given, sizes)
    if not on_gpu:
        given = merge(given, {"selfgen": {"threads_per_actor": 1}, "train": {"threads_per_worker": 1}})
    try:
        return AdaptConfig.model_validate(merge(given, said), context=ASKED)
    except ValidationError as error:
        found = first_error(error, AdaptConfig)
        raise InputError(f"{found.message} (--set)", param="set") from error


def as_dict(made: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    return {
        "device": asdict(made.device),
        "stages": [asdict(stage) | {"device_hours": stage.device_hours} for stage in made.stages],
        "seconds": made.seconds,
        "device_hours": made.device_hours,
        "disk_bytes": made.disk_bytes,
        "storage_bytes": made.storage_bytes,
        "exchange_bytes": made.exchange_bytes,
        "warnings": list(made.warnings),
    }


def _table(made: Plan) -> Table:
    columns = ("stage", "devices", "time", "hours", "tokens", "disk", "storage", "exchange", "memory")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for stage in made.stages:
        sizes = (stage.disk_bytes, stage.storage_bytes, stage.exchange_bytes, stage.memory_bytes)
        table.add_row(
            stage.stage,
            str(stage.devices),
            duration(stage.seconds),
            f"{stage.device_hours:.2f}",
            f"{stage.tokens / 1e6:.1f}M",
            *(size(number) for number in sizes),
        )
    totals = map(size, (made.disk_bytes, made.storage_bytes, made.exchange_bytes))
    table.add_row("all", "", duration(made.seconds), f"{made.device_hours:.2f}", "", *totals, "")
    return table
