"""The `eda` command: what a team types. Torch and Ray are imported by no command but `models fetch`."""

from __future__ import annotations

import typer

from eda_service.cli import jobs, models
from eda_service.cli.adapt import adapt
from eda_service.cli.console import Commands
from eda_service.cli.demo import demo
from eda_service.cli.service import down, up

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Keep speculative decoding fast when targets are fine-tuned.",
)
for command in (up, down, adapt, demo):
    app.command()(command)
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")

if __name__ == "__main__":
    app()
