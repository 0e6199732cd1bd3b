"""`eda measure TARGET --draft NAME`: what a draft, or a draft and a pack, gives on a target and prompts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eda_service.cli.arguments import as_path, complete_draft, complete_pack, complete_target
from eda_service.cli.console import (
    ForceOption,
    IdempotencyOption,
    JsonOption,
    UrlOption,
    UseGpuOption,
    WatchOption,
    connect,
    detachable,
    out,
    print_json,
)
from eda_service.cli.data.uploads import PromptsOption, UploadOption, prompt_source
from eda_service.cli.jobs import task_view
from eda_service.client import Client, Job
from eda_service.config.job import EngineKind


def measure(
    target: Annotated[
        str,
        typer.Argument(
            help="Hugging Face id, local directory, or the name of a shipped target.", autocompletion=complete_target
        ),
    ],
    draft: Annotated[
        str, typer.Option(metavar="NAME", help="Registered draft, name@version.", autocompletion=complete_draft)
    ],
    pack: Annotated[
        str | None, typer.Option(help="Pack over the draft, name@version.", autocompletion=complete_pack)
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter on top: id or directory.")] = None,
    base_target: Annotated[
        str | None, typer.Option(metavar="BASE", help="The draft's own target, to say what was lost.")
    ] = None,
    data: PromptsOption = None,
    upload: UploadOption = None,
    num_prompts: Annotated[int | None, typer.Option(min=8, help="Prompts used (32).")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=8, help="Answer cap in tokens (96).")] = None,
    num_draft_tokens: Annotated[int | None, typer.Option(min=1, max=64, help="Chain length (5).")] = None,
    temperatures: Annotated[
        list[float] | None, typer.Option("--temperature", min=0.0, max=2.0, help="Repeatable (0 and 1).")
    ] = None,
    engine: Annotated[EngineKind | None, typer.Option(help="Who runs the target (vLLM where it is too large).")] = None,
    tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, max=64, help="GPUs, or CPU ranks, of engine vllm (1).")
    ] = None,
    use_gpu: UseGpuOption = False,
    force: ForceOption = False,
    idempotency_key: IdempotencyOption = None,
    watch: WatchOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a draft's acceptance by position, speed and coverage on a target; say whether adapting is worth it."""
    given: dict[str, Any] = {
        "model": as_path(target),
        "adapter": None if adapter is None else as_path(adapter),
        "draft": draft,
        "pack": pack,
        "base_model": None if base_target is None else as_path(base_target),
        "max_new_tokens": max_new_tokens,
        "num_draft_tokens": num_draft_tokens,
        "temperatures": temperatures or None,
        "engine": None if engine is None else engine.value,
        "tensor_parallel_size": tensor_parallel_size,
        "use_gpu": use_gpu or None,
        "force": force,
    }
    with connect(url) as client:
        dataset = {"source": None if data is None else prompt_source(client, data, upload), "num_prompts": num_prompts}
        given["dataset"] = {key: value for key, value in dataset.items() if value is not None} or None
        body = {key: value for key, value in given.items() if value is not None}
        job = client.measurements.create(body, idempotency_key=idempotency_key)
        if not watch:
            if as_json:
                print_json(job)
            else:
                out.print(f"{job.id} {job.status}; watch it with `eda jobs watch {job.id}`", markup=False)
            return
        with detachable(job.id, url):
            ended = task_view.watch(client, job.id)
            if not as_json:
                found = client.measurements.get(job.id).measurement
                typer.echo(task_view.measured_text(found)) if found is not None else None
            finish(ended, as_json, client)


def finish(job: Job, as_json: bool, client: Client | None = None) -> None:
    """Print a terminal job when asked to (a measurement with its result), and leave with its exit code."""
    if as_json:
        print_json(job if client is None else client.measurements.get(job.id))
    code = task_view.exit_code(job)
    if code:
        raise typer.Exit(code)
