"""`eda data`: a prompt file as a job would read it and as the target will see it; and files at the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NotRequired, TypedDict

import typer

from eda_service.cli.arguments import complete_target
from eda_service.cli.console import Commands, JsonOption, example, out, print_json
from eda_service.cli.data.files import list_files, remove, upload

if TYPE_CHECKING:
    from eda_service.config.job import SelfGenConfig
    from eda_service.selfgen.prompts import Prompt

_MAX_COUNTED = 1 << 20  # different prompts; a file with more is said to have this many
_MAX_RENDERED = 4_000
_MAX_REASONS = 3


class _Shown(TypedDict):
    """One prompt; its tokens are counted where a target is given."""

    id: str
    form: str
    text: str
    reference: str | None
    num_tokens: NotRequired[int]


class _PromptFileSummary(TypedDict, total=False):
    """What is printed; what a target makes of the prompts is there where one is given."""

    file: str
    num_prompts: int
    num_distinct: int
    forms: dict[str, int]
    num_skipped: int
    skipped: list[str]
    num_rendered: int
    mean_tokens: int
    max_tokens: int
    num_refused: int
    refused: list[str]
    first: list[_Shown]


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Prompt files.",
    epilog=example("eda data check prompts.jsonl", "eda data upload prompts.jsonl"),
)
app.command(epilog=example("eda data upload prompts.jsonl", "eda data upload rows.jsonl --name math.jsonl --json"))(
    upload
)
app.command("ls", epilog=example("eda data ls"))(list_files)
app.command("rm", epilog=example("eda data rm file-01KD3Y..."))(remove)


@app.callback()
def _group() -> None:
    """Prompt files."""


@app.command(
    epilog=example("eda data check prompts.jsonl --model smollm2-135m-math", "eda data check rows.jsonl --json")
)
def check(
    file: Annotated[Path, typer.Argument(help="JSON lines or a JSON array, also with gzip: one prompt a row.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Render the prompts with this target's template, and count their tokens.",
            autocompletion=complete_target,
        ),
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="The target's LoRA adapter, whose template wins.")] = None,
    rows: Annotated[int, typer.Option(min=0, max=100, help="So many prompts are shown.")] = 3,
    max_error_fraction: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="As `selfgen.max_error_fraction`; default: a job's.")
    ] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=8, help="As `selfgen.max_prompt_tokens`; default: a job's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a prompt file through: how many prompts it has and in which forms, which rows are skipped and why, what the
    first prompts are. Exit code 0: a job takes the file; 2: it does not, and the error says why.
    """
    from eda_service.config.job import SelfGenConfig
    from eda_service.errors import DatasetInvalidError, InputError
    from eda_service.selfgen.prompts import read_rows, survey
    from eda_service.selfgen.skipped_rows import SkippedRows

    if adapter is not None and model is None:
        raise InputError("--adapter names an adapter on --model, which is missing; give both", param="adapter")
    asked = {"max_error_fraction": max_error_fraction, "max_prompt_tokens": max_prompt_tokens}
    settings = SelfGenConfig().model_copy(update={name: each for name, each in asked.items() if each is not None})
    skipped = SkippedRows(settings.max_error_fraction)
    first: list[Prompt] = []
    forms: Counter[str] = Counter()
    try:
        with file.open("rb") as stream:
            read = read_rows(stream, shown=str(file), param="file", skipped=skipped)
            kept = _keeping(read, first, forms, rows if model is None else max(rows, _MAX_RENDERED))
            found = survey(kept, shown=str(file), enough=_MAX_COUNTED, param="file")
    except OSError as error:
        raise DatasetInvalidError(f"{file} cannot be read: {error.strerror}; check its name", param="file") from error
    summary: _PromptFileSummary = {
        "file": str(file),
        "num_prompts": found.num_rows,
        "num_distinct": found.num_distinct,
        "forms": dict(forms.most_common()),
        "num_skipped": skipped.num,
        "skipped": skipped.reasons,
    }
    if model is None:
        summary["first"] = [_shown(each) for each in first]
    else:
        summary |= _seen(first, rows, model, adapter, settings)
    if as_json:
        print_json(summary)
    else:
        _print(summary, str(skipped))


def _print(summary: _PromptFileSummary, skipped: str) -> None:
    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"{summary['num_prompts']} prompts, {summary['num_distinct']} of them different")
    say("read from " + ", ".join(f"`{form}` ({count})" for form, count in summary["forms"].items()))
    if skipped:
        say(skipped)
    if "num_rendered" in summary:
        tokens = f"{summary['mean_tokens']} tokens on average, {summary['max_tokens']} at most"
        say(f"{summary['num_rendered']} go through the target's template: {tokens}; {summary['num_refused']} skipped")
    for reason in summary.get("refused", ()):
        say(f"skipped: {reason}")
    for each in summary["first"]:
        tokens = f", {each['num_tokens']} tokens" if "num_tokens" in each else ""
        answer = "" if each["reference"] is None else ", with an answer of its own"
        say(f"\n--- {each['id']}{tokens}{answer}")
        say(each["text"])


def _keeping(prompts: Iterable[Prompt], first: list[Prompt], forms: Counter[str], count: int) -> Iterator[Prompt]:
    for prompt in prompts:
        forms[prompt.form] += 1
        if len(first) < count:
            first.append(prompt)
        yield prompt


def _shown(prompt: Prompt) -> _Shown:
    """As the row says it, without a template."""
    lines = [f"tools: {', '.join(each['function']['name'] for each in prompt.tools)}"] if prompt.tools else []
    for each in prompt.messages:
        calls = "".join(f" [calls {call['function']['name']}]" for call in each.get("tool_calls", ()))
        lines.append(f"{each['role']}: {each['content'] or ''}{calls}")
    return {"id": prompt.id, "form": prompt.form, "text": "\n".join(lines), "reference": prompt.reference}


def _seen(
    prompts: list[Prompt], rows: int, model: str, adapter: str | None, settings: SelfGenConfig
) -> _PromptFileSummary:
    """As the target sees them: through its chat template and its tokenizer.

    Raises:
        DatasetInvalidError: More are skipped than a job allows.
    """
    from eda_service.config.job import TargetSpec
    from eda_service.errors import DatasetInvalidError
    from eda_service.selfgen.refused import render_all
    from eda_service.targets.chat.chat import target_tokenizer
    from eda_service.targets.files.resolve import resolve_target

    tokenizer = target_tokenizer(resolve_target(TargetSpec(model=model, adapter=adapter)))
    rendered, skipped = render_all(tokenizer, prompts)
    most = settings.max_prompt_tokens
    refused = [f"{each.sample_id}: {each.reason}" for each in skipped]
    for name, ids in rendered.items():
        if len(ids) > most:
            refused.append(f"{name}: {len(ids)} tokens, selfgen.max_prompt_tokens is {most}")
    if len(refused) > settings.max_error_fraction * len(prompts) or not rendered:
        raise DatasetInvalidError(
            f"{len(refused)} of {len(prompts)} prompts are not taken by the target, at most "
            f"{settings.max_error_fraction:.0%} may be skipped (selfgen.max_error_fraction); the first: {refused[0]}",
            param="file",
        )
    lengths = [len(ids) for ids in rendered.values()]
    shown = [each for each in prompts if each.id in rendered][:rows]
    return {
        "num_rendered": len(rendered),
        "mean_tokens": round(sum(lengths) / len(lengths)),
        "max_tokens": max(lengths),
        "num_refused": len(refused),
        "refused": refused[:_MAX_REASONS],
        "first": [
            {**_shown(each), "text": tokenizer.decode(rendered[each.id]), "num_tokens": len(rendered[each.id])}
            for each in shown
        ],
    }
