"""`eda data upload | ls | rm`: prompt files at the service, for whom it is on another machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from eda_service.cli.arguments import complete_file
from eda_service.cli.console import JsonOption, UrlOption, connect, out, print_json
from eda_service.cli.data.uploads import send

_NUM_SHOWN = 20


def upload(
    file: Annotated[Path, typer.Argument(help="JSON lines or a JSON array, also with gzip: one prompt a row.")],
    name: Annotated[str | None, typer.Option(help="What the service shall call it; default: its name here.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a prompt file to the service, which reads it through as a job would; `eda adapt --prompts ID` takes it."""
    with connect(url) as client:
        found = send(client, file, filename=name)
    if as_json:
        print_json(found)
        return
    skipped = f", {found.num_skipped:,} rows skipped" if found.num_skipped else ""
    out.print(f"{found.id} {found.filename}: {found.num_prompts:,} prompts{skipped}", markup=False)
    out.print(f"next: eda adapt TARGET --prompts {found.id}", markup=False)


def list_files(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = _NUM_SHOWN,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the prompt files at the service, newest first."""
    with connect(url) as client:
        found = client.files.page(limit=limit)
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
        return
    if not found.data:
        out.print("no files; `eda data upload FILE` sends one", markup=False)
        return
    table = Table("id", "name", "prompts", "bytes", "uploaded", box=None, pad_edge=False)
    for each in found:
        moment = time.strftime("%Y-%m-%d %H:%M", time.gmtime(each.created_at))
        table.add_row(each.id, Text(each.filename), f"{each.num_prompts:,}", f"{each.bytes:,}", moment)
    out.print(table)
    if found.has_more:
        out.print(f"there are more; --limit {limit * 10} shows them", markup=False)


def remove(
    file_id: Annotated[
        str, typer.Argument(metavar="ID", help="File id, as `eda data ls` shows it.", autocompletion=complete_file)
    ],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a file at the service; refused while a live job was made from it. Other jobs keep their copies."""
    with connect(url) as client:
        client.files.delete(file_id)
    if as_json:
        print_json({"id": file_id, "deleted": True})
    else:
        out.print(f"{file_id} is deleted", markup=False)
