"""What `eda --version` says, from what is written down of installed packages: nothing of them is imported."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

import typer

from eda_service import __version__

_SHOWN = ("torch", "ray", "transformers", "vllm")


def show_version(value: bool) -> None:
    """Say it and end, where the option is given."""
    if value:
        typer.echo(version_text())
        raise typer.Exit


def version_text() -> str:
    """This package, Python, and the libraries that decide what a job computes; where all that lies."""
    rows = [("eda-service", __version__), ("python", platform.python_version())]
    rows += [(name, version) for name in _SHOWN if (version := _version(name)) is not None]
    place = Path(__file__).resolve().parents[1]
    return "\n".join(
        [*(f"{name:<13}{version}" for name, version in rows), f"{'installed in':<13}{place}, run by {sys.executable}"]
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
