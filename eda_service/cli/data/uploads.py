"""Prompt files of this machine on their way to a service that may be another one's."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from eda_service.cli.arguments import as_path
from eda_service.cli.console import err
from eda_service.client import Client
from eda_service.client.calls.file_calls import UploadedFile
from eda_service.errors import DatasetInvalidError

PromptsOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        "--prompts",
        help="JSONL file, id of an uploaded one, dataset id, `reasoning-gym:<task>`, or `self`.",
    ),
]
UploadOption = Annotated[
    bool | None,
    typer.Option(
        "--upload/--no-upload",
        help="Send prompt files of this machine to the service; by default where the service is on another machine.",
    ),
]


def prompt_source(client: Client, value: str, upload: bool | None, *, quiet: bool = False) -> str:
    """What a job is told of its prompts: the id of the uploaded file, a path made absolute, or the value as it is.

    Args:
        client: Of the service.
        value: As it was typed.
        upload: Whether a file is sent; None: if the service is on another machine.
        quiet: Say nothing of what was sent.
    """
    source = as_path(value)
    wanted = is_remote(client.base_url) if upload is None else upload
    if not source.startswith("/") or not wanted:
        return source
    if upload is None and not Path(source).is_file():  # a path that only the service's machine has
        return source
    file = send(client, Path(source))
    if not quiet:
        err.print(f"sent {value} as {file.id}, {file.num_prompts:,} prompts", markup=False)
    return file.id


def send(client: Client, path: Path, *, filename: str | None = None) -> UploadedFile:
    """Upload a file.

    Raises:
        DatasetInvalidError: It cannot be read here.
    """
    try:
        return client.files.upload(path, filename=filename)
    except OSError as error:
        raise DatasetInvalidError(f"{path} cannot be read: {error.strerror}; check its name", param="file") from error


def is_remote(url: str) -> bool:
    """Whether a service's URL names another machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
