"""`eda report`: what an adaptation did, as one HTML file to keep or to mail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eda_service.cli.arguments import AdaptationArgument, LastOption, find_job
from eda_service.cli.console import JsonOption, UrlOption, connect, err, print_json
from eda_service.errors import InputError
from eda_service.formatting import size
from eda_service.storage.files import write_bytes

_STDOUT = Path("-")


def report(
    given: AdaptationArgument = None,
    last: LastOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; `-`: standard output; default: ID.html.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a job's report: one HTML file with its charts, stages, cost and settings, which needs nothing else."""
    if out is not None and out != _STDOUT and out.is_dir():
        raise InputError(f"{out} is a directory; name a file in it", param="out")
    with connect(url) as client:
        job_id = find_job(client, given, last, kind="adapt")
        path = out or Path(f"{job_id}.html")
        data = client.report_page(job_id).encode()
    if path == _STDOUT:
        sys.stdout.buffer.write(data)
        return
    try:
        write_bytes(path, data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another --out", param="out") from error
    if as_json:
        print_json({"id": job_id, "path": str(path), "size_bytes": len(data)})
    else:
        typer.echo(str(path))
        err.print(f"{size(len(data))}; open it in a browser")
