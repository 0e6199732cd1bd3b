"""MkDocs hook: the reference pages that follow from the code, made when the site is built and kept nowhere.

`reference/cli.md` from the Typer app, `reference/config.md` and `reference/settings.md` from the pydantic models,
`reference/errors.md` from the error tree, `adr/index.md` from the records themselves.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from schema_tables import sections, table
from typer.cli import get_docs_for_click
from typer.main import get_command

from api.errors import status_of
from api.settings import Settings
from eda_service.cli.main import app
from eda_service.config.deployment import DriftConfig, VllmConfig
from eda_service.config.job import AdaptConfig
from eda_service.config.tasks import ImportConfig, MeasureConfig
from eda_service.environment import Environment
from eda_service.errors import EdaError

_EXAMPLES = re.compile(r"^Examples?:\n\n((?:eda .*\n+)+)", re.MULTILINE)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages: dict[str, Callable[[], str]] = {
        "reference/cli.md": cli_page,
        "reference/config.md": config_page,
        "reference/settings.md": settings_page,
        "reference/errors.md": errors_page,
        "adr/index.md": lambda: decisions_page(Path(config.docs_dir) / "adr"),
    }
    for path, make in pages.items():
        files.append(File.generated(config, path, content=make()))
    return files


def cli_page() -> str:
    """Every command with its options, by Typer's own generator."""
    command = get_command(app)
    context = command.make_context("eda", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="eda", title="Command line")
    return _EXAMPLES.sub(lambda found: "```bash\n" + re.sub(r"\n+", "\n", found[1]) + "```\n\n", text)


def config_page() -> str:
    """Every field of a job of each kind, and of a deployment's drift."""
    head = (
        "# Job configuration\n\nThe `config` of a job. On the command line `--set train.epochs=4`, over HTTP "
        '`{"config": {"train": {"epochs": 4}}}`; what is not given comes from the preset, then from here. Unknown '
        "fields are refused."
    )
    drift = "## `drift` of a deployment\n\n[What it does](serving.md#drift)."
    vllm = "## `vllm` of a deployment\n\nWith `engine` vllm; [what it does](serving.md#on-vllm)."
    imports = "## An import of a draft\n\n[What it does](jobs.md#importing-a-draft)."
    measures = "## A measurement\n\n[What it does](jobs.md#measuring-a-draft)."
    others = [imports, _fields(ImportConfig), measures, _fields(MeasureConfig)]
    tables = [*sections(AdaptConfig), *others, drift, _fields(DriftConfig, "drift"), vllm, _fields(VllmConfig, "vllm")]
    return "\n\n".join([head, *tables]) + "\n"


def _fields(model: type[BaseModel], path: str = "") -> str:
    schema = model.model_json_schema()
    return table(schema, schema.get("$defs", {}), lambda name: f"{path}.{name}" if path else name)


def settings_page() -> str:
    """Every environment variable: of the API process, then of all."""
    head = (
        "# Service settings\n\nThe API process reads these from its environment; `eda up` gives it `EDA_HOME`, "
        "`EDA_PORT`, `EDA_SERVE_PORT` and the addresses of Ray, and passes the others on."
    )
    shared = (
        "## Of every process\n\nJobs and replicas are given these by the service; the command line and the client read "
        "them too."
    )
    tables = [_variables(Settings), shared, _variables(Environment)]
    return "\n\n".join([head, *tables]) + "\n"


def _variables(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    return table(schema, schema.get("$defs", {}), lambda name: f"EDA_{name.upper()}")


def errors_page() -> str:
    """The error tree."""
    lines = [
        "# Errors\n\nJobs carry the code in `error.code`, HTTP bodies in "
        '`{"error": {"message", "type", "param", "code"}}`. A message says the value found, the limit and the next '
        "step. Retryable: another attempt of the same job, or the same request later, may succeed.\n",
        "| Code | HTTP | Retryable | |",
        "|---|---|---|---|",
    ]
    for kind in _tree(EdaError):
        status = status_of(kind.__new__(kind))
        lines.append(f"| `{kind.code}` | {status} | {'yes' if kind.retryable else 'no'} | {_first_line(kind)} |")
    return "\n".join(lines) + "\n"


def _tree(kind: type[EdaError]) -> Iterator[type[EdaError]]:
    """The errors of `eda_service.errors` that have a code of their own."""
    for child in kind.__subclasses__():
        if child.__module__ == EdaError.__module__:
            if "code" in vars(child):
                yield child
            yield from _tree(child)


def _first_line(kind: type[EdaError]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").split("\n")[0]


def decisions_page(directory: Path) -> str:
    """Every decision by its number."""
    lines = ["# Decisions\n\nWhat others must live with, and why.\n"]
    for path in sorted(directory.glob("[0-9]*.md")):
        title = _TITLE.search(path.read_text(encoding="utf-8"))
        if title is not None and not path.name.startswith("0000"):
            lines.append(f"* [{title[1]}]({path.name})")
    return "\n".join(lines) + "\n"
