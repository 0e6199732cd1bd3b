"""`eda data check`: a prompt file as a job would read it, and its first prompts as the target will see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eda_service.cli.console import Commands, JsonOption, example, out, print_json

if TYPE_CHECKING:
    from eda_service.selfgen.prompts import Prompt

_MAX_COUNTED = 1 << 20  # different prompts; a file with more is said to have this many

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Prompt files.", epilog=example("eda data check prompts.jsonl")
)


@app.callback()
def _group() -> None:
    """Prompt files."""


@app.command(
    epilog=example("eda data check prompts.jsonl --model smollm2-135m-math", "eda data check rows.jsonl --json")
)
def check(
    file: Annotated[Path, typer.Argument(help="JSON lines, one prompt each.")],
    model: Annotated[
        str | None, typer.Option(help="Render the first prompts with this target's template, and count their tokens.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="The target's LoRA adapter, whose template wins.")] = None,
    rows: Annotated[int, typer.Option(min=0, max=100, help="So many prompts are shown.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Read a prompt file through: how many prompts it has, which rows are skipped and why, what the first ones are."""
    from eda_service.config import SelfGenConfig
    from eda_service.errors import DatasetInvalidError
    from eda_service.selfgen.prompts import SkippedRows, read_rows, survey

    skipped = SkippedRows(SelfGenConfig().max_error_fraction)
    first: list[Prompt] = []
    try:
        with file.open("rb") as stream:
            read = read_rows(stream, shown=str(file), param="file", skipped=skipped)
            found = survey(_keeping(read, first, rows), shown=str(file), enough=_MAX_COUNTED, param="file")
    except OSError as error:
        raise DatasetInvalidError(f"{file} cannot be read: {error.strerror}", param="file") from error
    shown = [_shown(each) for each in first] if model is None else _rendered(first, model, adapter)
    facts = {
        "file": str(file),
        "num_prompts": found.num_rows,
        "num_distinct": found.num_distinct,
        "num_skipped": skipped.num,
        "skipped": skipped.reasons,
        "first": shown,
    }
    if as_json:
        print_json(facts)
        return
    out.print(f"{found.num_rows} prompts, {found.num_distinct} of them different", markup=False, highlight=False)
    if skipped.num:
        out.print(str(skipped), markup=False, highlight=False, soft_wrap=True)
    for each in shown:
        tokens = f", {each['num_tokens']} tokens" if "num_tokens" in each else ""
        answer = "" if each["reference"] is None else ", with an answer of its own"
        out.print(f"\n--- {each['id']}{tokens}{answer}", markup=False, highlight=False)
        out.print(each["text"], markup=False, highlight=False, soft_wrap=True)


def _keeping(prompts: Iterable[Prompt], first: list[Prompt], count: int) -> Iterator[Prompt]:
    for prompt in prompts:
        if len(first) < count:
            first.append(prompt)
        yield prompt


def _shown(prompt: Prompt) -> dict[str, Any]:
    text = "\n".join(f"{each['role']}: {each['content']}" for each in prompt.messages)
    return {"id": prompt.id, "text": text, "reference": prompt.reference}


def _rendered(prompts: list[Prompt], model: str, adapter: str | None) -> list[dict[str, Any]]:
    """As the target sees them: through its chat template and its tokenizer."""
    from eda_service.config import TargetSpec
    from eda_service.target.chat import render_prompt, target_tokenizer
    from eda_service.target.resolve import resolve_target

    tokenizer = target_tokenizer(resolve_target(TargetSpec(model=model, adapter=adapter)))
    shown = []
    for prompt in prompts:
        ids = render_prompt(tokenizer, prompt.messages)
        shown.append(_shown(prompt) | {"text": tokenizer.decode(ids), "num_tokens": len(ids)})
    return shown
