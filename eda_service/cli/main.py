"""The `eda` command: what a team types. Heavy libraries are imported by the commands that need them, not here."""

from __future__ import annotations

from typing import Annotated

import typer

from eda_service.cli import drafts, models
from eda_service.cli.console import Root, example
from eda_service.cli.data import data
from eda_service.cli.demo.demo import demo
from eda_service.cli.deployments import deployments
from eda_service.cli.deployments.chat import chat
from eda_service.cli.jobs import jobs
from eda_service.cli.jobs.adapt import adapt
from eda_service.cli.jobs.measure import measure
from eda_service.cli.jobs.report import report
from eda_service.cli.packs import packs
from eda_service.cli.packs.export import export
from eda_service.cli.plan import plan
from eda_service.cli.service import keys
from eda_service.cli.service.doctor import doctor
from eda_service.cli.service.gc import gc
from eda_service.cli.service.join import join
from eda_service.cli.service.service import down, up
from eda_service.cli.service.status import status
from eda_service.cli.version import show_version

app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Keep speculative decoding fast when targets are fine-tuned.",
    epilog=example("eda adapt smollm2-135m-math --preset demo --watch", "eda --install-completion"),
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Say what is installed, and where.")
    ] = False,
) -> None:
    """Options of every command."""


app.command(epilog=example("eda up --port 8800"))(up)
app.command(epilog=example("eda down"))(down)
app.command(epilog=example("eda join 10.0.0.1:6379 --home /mnt/shared/eda"))(join)
app.command(
    epilog=example(
        "eda adapt smollm2-135m-math --preset demo --dry-run",
        "eda adapt org/model --adapter org/lora --data prompts.jsonl --set train.epochs=4 --watch",
        "eda adapt --config job.yaml --priority 80",
    )
)(adapt)
app.command(
    epilog=example(
        "eda measure smollm2-135m-math --draft smollm2-135m@3 --watch",
        "eda measure org/tuned --draft ours@1 --base-target org/base --data prompts.jsonl --num-prompts 64",
    )
)(measure)
app.command(
    epilog=example(
        "eda chat smollm2-135m-math",
        "eda chat smollm2-135m-math --once 'What is 12 * 7 + 5?' --temperature 0 --json",
    )
)(chat)
app.command(epilog=example("eda demo --output out/demo"))(demo)
app.command(
    epilog=example(
        "eda export smollm2-135m-math --to vllm --out out/draft --merged-target out/target",
        "eda export smollm2-135m-math@2 --to sglang --form dense --prompts prompts.jsonl --out out/draft",
    )
)(export)
app.command(epilog=example("eda report adapt_01KD --out report.html"))(report)
app.command(epilog=example("eda status", "eda status --json"))(status)
app.command(epilog=example("eda gc --dry-run", "eda gc --days 0 --yes"))(gc)
app.command(epilog=example("eda doctor", "eda doctor --json"))(doctor)
app.add_typer(jobs.app, name="jobs")
app.add_typer(drafts.app, name="drafts")
app.add_typer(packs.app, name="packs")
app.add_typer(deployments.app, name="deployments")
app.add_typer(keys.app, name="keys")
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(plan.app, name="plan")

if __name__ == "__main__":
    app(prog_name="eda")
