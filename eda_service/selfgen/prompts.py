"""Domain prompts from a JSONL file, a Hugging Face dataset, or reasoning-gym.

Rows are read in the forms of `eda_service.selfgen.row_forms`, each with an optional "id". Nothing is dropped silently:
a malformed row is an error that names its line, or is skipped and counted (`SkippedRows`) where that is asked for.

`read_rows` is the one reader of such a file: at submit, where it is copied meanwhile, and in the job, which reads the
copy (`DatasetSpec.sha256`); what one of them skips, the other skips too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from eda_service.artifacts import bounded_json
from eda_service.artifacts.input_files import find_copy
from eda_service.artifacts.rundir import home_dir
from eda_service.config import DatasetSpec
from eda_service.errors import DatasetInvalidError
from eda_service.names import is_model_id
from eda_service.records import MAX_ROW_BYTES
from eda_service.selfgen.row_forms import RowError, read_form
from eda_service.selfgen.tasks import PREFIX, templates_of

PARAM = "dataset.source"
MAX_FILE_BYTES = 2 << 30
_MAX_IDS = 1 << 18  # ids that are compared at submit; the job compares those of the prompts it takes
_BOM = b"\xef\xbb\xbf"
_MAX_REASONS = 3
_ARRAY = re.compile(rb"\s*\[\s*(\{|$)")  # a row that is some other list is only a wrong row


@dataclass(frozen=True)
class Prompt:
    """One conversation that the target is to answer; `reference` is the data set's own answer."""

    id: str
    messages: list[dict[str, str]]
    reference: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As a JSON lines row."""
        row: dict[str, Any] = {"id": self.id, "messages": self.messages}
        return row if self.reference is None else {**row, "reference": self.reference}


@dataclass
class SkippedRows:
    """Rows that are left out since they hold no prompt: how many, and why the first ones.

    Attributes:
        max_fraction: Above this share of all rows they are an error.
        num: How many there are.
        reasons: Of the first few, with their lines.
    """

    max_fraction: float
    num: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, error: DatasetInvalidError) -> None:
        """Leave a row out."""
        self.num += 1
        if len(self.reasons) < _MAX_REASONS:
            self.reasons.append(error.message)

    def check(self, num_read: int, param: str) -> None:
        """Look whether they are too many, once all rows were read.

        Raises:
            DatasetInvalidError: They are.
        """
        total = self.num + num_read
        if self.num > self.max_fraction * total:
            raise DatasetInvalidError(
                f"{self.reasons[0]}; {self.num} of {total} rows hold no prompt, at most {self.max_fraction:.0%} may be "
                "skipped (selfgen.max_error_fraction); mend them",
                param=param,
            )

    def __str__(self) -> str:
        """What was skipped and why, in one line; empty where nothing was."""
        if not self.num:
            return ""
        more = f"; and {self.num - len(self.reasons)} more" if self.num > len(self.reasons) else ""
        return f"{self.num} row{'s are' if self.num > 1 else ' is'} skipped: {'; '.join(self.reasons)}{more}"


def general_prompts_file() -> Path:
    """The general prompts that ship with the package, written by SmolLM2 itself."""
    return Path(str(resources.files("eda_service") / "assets" / "general_prompts.jsonl"))


def load_prompts(dataset: DatasetSpec, *, seed: int, skipped: SkippedRows | None = None) -> list[Prompt]:
    """Exactly `num_prompts` distinct prompts, the same ones for the same seed.

    Args:
        dataset: The source, and how many.
        seed: Which ones.
        skipped: Where malformed rows are counted; None: one is an error.

    Raises:
        DatasetInvalidError: The source cannot be read, a row is malformed, an id is used twice, or there are too few
            distinct rows.
        ArtifactCorruptError: The copy that was made at submit has changed.
    """
    wanted = dataset.num_prompts
    found: dict[str, Prompt] = {}
    ids: set[str] = set()
    for prompt in itertools.islice(_rows(dataset, seed, skipped), 50 * wanted + 1000):
        content = json.dumps(prompt.messages)
        if content in found:
            continue
        if prompt.id in ids:
            raise _repeated_id(prompt, dataset.source, PARAM)
        ids.add(prompt.id)
        found[content] = prompt
        if len(found) == wanted:
            return list(found.values())
    raise DatasetInvalidError(
        f"{dataset.source} has {len(found)} distinct prompts, dataset.num_prompts is {wanted}; lower it or add prompts",
        param=PARAM,
    )


@dataclass(frozen=True)
class Survey:
    """What a prompt file holds.

    Attributes:
        num_rows: Its rows.
        num_distinct: Its different conversations; counted up to a number that was enough.
    """

    num_rows: int
    num_distinct: int


def survey(rows: Iterable[Prompt], *, shown: str, enough: int, param: str = PARAM) -> Survey:
    """Go through all prompts of a file, in memory that does not grow with it.

    Args:
        rows: From `read_rows`, which checks each.
        shown: What the file is called in messages.
        enough: Different prompts are counted up to this number.
        param: The field that names the file.

    Raises:
        DatasetInvalidError: Two different prompts have one id.
    """
    contents: set[bytes] = set()
    ids: dict[bytes, bytes] = {}
    num_rows = 0
    for prompt in rows:
        num_rows += 1
        content = _digest(json.dumps(prompt.messages))
        if len(contents) < enough:
            contents.add(content)
        if len(ids) < _MAX_IDS and ids.setdefault(_digest(prompt.id), content) != content:
            raise _repeated_id(prompt, shown, param)
    return Survey(num_rows, len(contents))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def _repeated_id(prompt: Prompt, shown: str, param: str) -> DatasetInvalidError:
    return DatasetInvalidError(
        f"{shown}: two different prompts have the id {prompt.id[:64]!r}; make ids unique or leave them out", param=param
    )


def _rows(dataset: DatasetSpec, seed: int, skipped: SkippedRows | None) -> Iterator[Prompt]:
    source = dataset.source
    if source.startswith(PREFIX):
        return _reasoning_gym(source, seed)
    if dataset.sha256 is not None:
        copy = find_copy(dataset.sha256, source, home_dir())
        return iter(_shuffled(read_jsonl(copy, shown=source, skipped=skipped), seed))
    if not is_model_id(source):
        return iter(_shuffled(read_jsonl(Path(source), skipped=skipped), seed))
    if Path(source).exists():  # the data set library would read it; see `eda_service.names`
        raise DatasetInvalidError(f"{source!r} is a path here; write it as ./{source} or absolute", param=PARAM)
    return iter(_shuffled(_hugging_face(dataset, skipped), seed))


def _shuffled(prompts: list[Prompt], seed: int) -> list[Prompt]:
    random.Random(f"prompts:{seed}").shuffle(prompts)
    return prompts


def read_jsonl(path: Path, *, shown: str | None = None, skipped: SkippedRows | None = None) -> list[Prompt]:
    """All prompts of a JSON lines file.

    Args:
        path: The file.
        shown: What messages call it; None: its path.
        skipped: Where malformed rows are counted; None: one is an error.

    Raises:
        DatasetInvalidError: No such file, no row, or a malformed row (with `skipped`: too many).
    """
    name = shown or str(path)
    try:
        with path.open("rb") as stream:
            return list(read_rows(stream, shown=name, skipped=skipped))
    except OSError as error:
        raise DatasetInvalidError(f"{name} cannot be read as UTF-8 text: {error.strerror}", param=PARAM) from error


def read_rows(
    stream: BinaryIO,
    *,
    shown: str,
    param: str = PARAM,
    tee: Callable[[bytes], None] | None = None,
    skipped: SkippedRows | None = None,
) -> Iterator[Prompt]:
    """The prompts of a JSON lines file one by one; not more than a line of it is in memory.

    Args:
        stream: The file, at its start.
        shown: What messages call it.
        param: The field that names it.
        tee: Given every line as it is read.
        skipped: Where malformed rows are counted; None: one is an error.

    Raises:
        DatasetInvalidError: The file or a line is too long, no row, or a malformed row (with `skipped`: too many).
        OSError: It cannot be read on.
    """
    num_prompts = 0
    for number, line in _lines(stream, shown, param, tee):
        try:
            prompt = _parse_line(line, f"{shown}, line {number}", number, param)
        except DatasetInvalidError as error:
            if skipped is None:
                raise
            skipped.add(error)
        else:
            num_prompts += 1
            yield prompt
    if skipped is not None:
        skipped.check(num_prompts, param)
    if not num_prompts:
        raise DatasetInvalidError(f"{shown} is empty; write one JSON object per line", param=param)


def _lines(
    stream: BinaryIO, shown: str, param: str, tee: Callable[[bytes], None] | None
) -> Iterator[tuple[int, bytes]]:
    """Each line that is not blank with its number, the first without a byte order mark."""
    num_bytes = 0
    for number in itertools.count(1):
        # Not splitlines(): U+2028 and its like are legal inside a JSON string.
        line = stream.readline(MAX_ROW_BYTES + 2)  # with its end
        if not line:
            return
        num_bytes += len(line)
        if len(line.removesuffix(b"\n").removesuffix(b"\r")) > MAX_ROW_BYTES:
            raise DatasetInvalidError(
                f"{shown}, line {number}: more than {MAX_ROW_BYTES} bytes; shorten it", param=param
            )
        if num_bytes > MAX_FILE_BYTES:
            raise DatasetInvalidError(f"{shown} has more than {MAX_FILE_BYTES} bytes; split it", param=param)
        if tee is not None:
            tee(line)
        if number == 1:
            line = line.removeprefix(_BOM)
            if _ARRAY.match(line):
                raise DatasetInvalidError(
                    f"{shown} is one JSON array; write one object per line (`jq -c '.[]' FILE > FILE.jsonl`)",
                    param=param,
                )
        if line.strip():
            yield number, line


def _parse_line(line: bytes, where: str, number: int, param: str) -> Prompt:
    try:
        row = bounded_json.parse(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DatasetInvalidError(f"{where}: cannot be read as UTF-8 text: {error.reason}", param=param) from error
    except json.JSONDecodeError as error:
        raise DatasetInvalidError(f"{where}: not JSON ({error.msg} at column {error.colno})", param=param) from error
    except ValueError as error:
        raise DatasetInvalidError(f"{where}: not JSON ({error})", param=param) from error
    return parse_row(row, where, default_id=f"row-{number:07d}", param=param)


def parse_row(row: Any, where: str, *, default_id: str, param: str = PARAM) -> Prompt:
    """One row in any of the accepted forms.

    Raises:
        DatasetInvalidError: It is in none.
    """
    try:
        messages, reference = read_form(row)
    except RowError as error:
        raise DatasetInvalidError(f"{where}: {error}", param=param) from error
    name = row.get("id")
    if isinstance(name, list | dict):
        raise DatasetInvalidError(f"{where}: id is a {type(name).__name__}, not a text or a number", param=param)
    return Prompt(id=str(name or default_id), messages=messages, reference=reference)


def _reasoning_gym(source: str, seed: int) -> Iterator[Prompt]:
    from eda_service.selfgen.gsm_symbolic import questions

    templates = templates_of(source, param=PARAM)
    first, last = templates.start, templates.stop - 1
    for index, question in enumerate(questions(templates, seed=seed)):
        yield Prompt(id=f"gsm-{first}-{last}-{index:06d}", messages=[{"role": "user", "content": question}])


def _hugging_face(dataset: DatasetSpec, skipped: SkippedRows | None) -> list[Prompt]:
    """Rows of a hub data set."""
    from datasets import load_dataset

    try:
        rows = load_dataset(dataset.source, split=dataset.split)
    except Exception as error:
        raise DatasetInvalidError(
            f"{dataset.source!r} is no file here and does not load as a Hugging Face data set: {str(error)[:200]}",
            param=PARAM,
        ) from error
    prompts = []
    for index, row in enumerate(rows):
        try:
            prompts.append(parse_row(dict(row), f"{dataset.source}[{index}]", default_id=f"row-{index:07d}"))
        except DatasetInvalidError as error:
            if skipped is None:
                raise
            skipped.add(error)
    if skipped is not None:
        skipped.check(len(prompts), PARAM)
    return prompts
