"""`eda jobs samples`: what the target wrote, what each sample was worth, and which ones selection kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from eda_service.cli.arguments import JobArgument, LastOption, find_job
from eda_service.cli.console import JsonOption, UrlOption, connect, err, print_json
from eda_service.client import Client, Sample, SamplePage
from eda_service.errors import InputError
from eda_service.formatting import value_word
from eda_service.storage.files import write_bytes

_PER_PAGE = 100
_SHOWN = 20
_MAX_CHARACTERS = 240
_STDOUT = Path("-")


def samples(
    given: JobArgument = None,
    last: LastOption = False,
    kept: Annotated[
        bool | None, typer.Option("--kept/--dropped", help="Only what was kept, or only what was dropped.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many; default: 20, and with --out all of them.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.jsonl", help="Write JSON lines there; `-`: standard output."),
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the target wrote for a job, the most valuable sample first, with its value and whether it was kept.

    Texts are shortened on the screen; --json and --out have them whole.
    """
    with connect(url) as client:
        found = _Walk(client, find_job(client, given, last), kept)
        most = limit if limit is not None or output is not None else _SHOWN
        if output is not None:
            _write(output, found, most, as_json)
            return
        shown = list(found.take(most))
    if as_json:
        print_json([each.model_dump(mode="json") for each in shown])
        return
    for each in shown:
        typer.echo(sample_text(each, found.value_word))
    typer.echo(found.summary(len(shown)))
    if found.note:
        err.print(found.note, markup=False)


def sample_text(sample: Sample, value_word: str = "value") -> str:
    """One sample as a few lines, its texts on one line each."""
    value = "not measured" if sample.sample_value is None else f"{value_word} {sample.sample_value:.2f}"
    state = "kept" if sample.kept else "dropped"
    lines = [f"{sample.id}  {state}  {value}  {sample.num_answer_tokens} tokens  {one_line(sample.sample_id)}"]
    if sample.messages:
        lines.append(f"    asked     {one_line(str(sample.messages[-1].get('content') or ''))}")
    if sample.answer is not None:
        lines.append(f"    answered  {one_line(sample.answer)}")
    return "\n".join(lines)


def one_line(text: str) -> str:
    """A text as at most one line of printable characters: what a model wrote must not steer a terminal."""
    printable = "".join(each if each.isprintable() else " " for each in text)
    words = " ".join(printable.split())
    return words if len(words) <= _MAX_CHARACTERS else words[: _MAX_CHARACTERS - 1] + "…"


class _Walk:
    """Samples page by page, and what their pages say of all of them."""

    def __init__(self, client: Client, job_id: str, kept: bool | None) -> None:
        self._client, self._job_id, self._kept = client, job_id, kept
        self._page: SamplePage | None = None

    def take(self, most: int | None) -> Iterator[Sample]:
        """At most so many; None: all."""
        num_taken, after = 0, None
        while most is None or num_taken < most:
            limit = _PER_PAGE if most is None else min(_PER_PAGE, most - num_taken)
            self._page = self._client.samples(self._job_id, kept=self._kept, after=after, limit=limit)
            yield from self._page.samples
            num_taken, after = num_taken + len(self._page.samples), self._page.last_id
            if not self._page.has_more or not self._page.samples:
                return

    @property
    def value_word(self) -> str:
        """What the samples' values are called."""
        return value_word("distance" if self._page is None else self._page.value_name)

    @property
    def note(self) -> str | None:
        """What the run does not have."""
        return None if self._page is None else self._page.note

    def summary(self, num_shown: int) -> str:
        """How many there are, and where the line between them is."""
        page = self._page
        if page is None:
            return "no samples"
        at = "" if page.threshold is None else f", from {self.value_word} {page.threshold:.2f} on"
        return f"{num_shown:,} shown; the job kept {page.num_kept:,}{at}, and dropped {page.num_dropped:,}"


def _write(output: Path, found: _Walk, most: int | None, as_json: bool) -> None:
    if output != _STDOUT and output.is_dir():
        raise InputError(f"{output} is a directory; name a file in it", param="out")
    lines = [each.model_dump_json() + "\n" for each in found.take(most)]
    if output == _STDOUT:
        sys.stdout.writelines(lines)
        return
    try:
        write_bytes(output, "".join(lines).encode("utf-8"))
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}; choose another --out", param="out") from error
    if as_json:
        print_json({"path": str(output), "num_samples": len(lines), "note": found.note})
    else:
        typer.echo(str(output))
        err.print(found.summary(len(lines)) + (f"; {found.note}" if found.note else ""), markup=False)
