"""Domain prompts from a file, a Hugging Face dataset, or reasoning-gym.

Rows are read in the forms of `eda_service.selfgen.row_forms`, each with an optional "id". No row is dropped silently: a
malformed row is an error that names its line, or is skipped and counted (`SkippedRows`) if that is asked for.

`read_rows` is the one reader of such a file. It runs at submit, which copies the file meanwhile, and in the job, which
reads the copy (`DatasetSpec.sha256`); so both skip the same rows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from eda_service.config.job import DatasetSpec
from eda_service.errors import DatasetInvalidError
from eda_service.names import is_model_id
from eda_service.selfgen.hub_rows import hub_rows
from eda_service.selfgen.row_error import RowError
from eda_service.selfgen.row_files import rows_of
from eda_service.selfgen.row_forms import read_form
from eda_service.selfgen.row_tools import Tools
from eda_service.selfgen.row_turns import Message
from eda_service.selfgen.skipped_rows import SkippedRows
from eda_service.selfgen.tasks import PREFIX, templates_of
from eda_service.storage.inputs.input_files import find_copy
from eda_service.storage.runs.run import home_dir
from eda_service.targets.chat.chat import render_prompt

PARAM = "dataset.source"
_MAX_IDS = 1 << 18  # number of ids compared at submit; the job compares those of the prompts it takes


@dataclass(frozen=True)
class Prompt:
    """One conversation that the target is to answer.

    Attributes:
        id: Id of the prompt's sample.
        messages: Messages of the conversation up to the place of the target's answer.
        reference: Answer of the data set, if it has one.
        tools: Tools that the target may call, in OpenAI's form.
        template_kwargs: Additional variables of the chat template.
        form: Key under which the row had the conversation; used in messages, not stored.
    """

    id: str
    messages: list[Message]
    reference: str | None = None
    tools: Tools | None = None
    template_kwargs: dict[str, Any] | None = None
    form: str = field(default="", compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the prompt as a row of JSON lines."""
        row: dict[str, Any] = {"id": self.id, "messages": self.messages, **self.beside}
        return row if self.reference is None else {**row, "reference": self.reference}

    @property
    def beside(self) -> dict[str, Any]:
        """Arguments of the chat template beside the messages, by their names in `render_prompt`; empty if there are
        none.
        """
        beside = {"tools": self.tools, "template_kwargs": self.template_kwargs}
        return {name: value for name, value in beside.items() if value is not None}

    @property
    def content(self) -> str:
        """A text that is equal for prompts that look equal to the chat template."""
        return json.dumps([self.messages, self.beside] if self.beside else self.messages)

    def token_ids(self, tokenizer: Any) -> list[int]:
        """Render the prompt as token ids, up to the place where the target's answer begins.

        Raises:
            TargetIncompatibleError: The tokenizer has no chat template, or one that takes too long.
            DatasetInvalidError: The template refuses the conversation, or leaves out its tools.
        """
        return render_prompt(tokenizer, self.messages, **self.beside)


def general_prompts_file() -> Path:
    """Return the path of the general prompts that the package ships, written by SmolLM2 itself."""
    return Path(str(resources.files("eda_service") / "assets" / "general_prompts.jsonl"))


def general_prompts(count: int, *, param: str = "selection.num_reference_prompts") -> list[Prompt]:
    """Read the first `count` of the general prompts that the package ships.

    Args:
        count: Number of prompts, at least 1.
        param: Field that sets the number, for the message.

    Raises:
        DatasetInvalidError: `count` is above the number of prompts that the package ships.
    """
    text = general_prompts_file().read_text(encoding="utf-8")
    lines = text.rstrip("\n").split("\n")
    if count > len(lines):
        raise DatasetInvalidError(
            f"{param} is {count}, {len(lines)} general prompts are shipped; lower it", param=param
        )
    return [Prompt(**json.loads(line)) for line in lines[:count]]


def load_prompts(dataset: DatasetSpec, *, seed: int, skipped: SkippedRows | None = None) -> list[Prompt]:
    """Read exactly `num_prompts` distinct prompts, the same ones for the same seed.

    Args:
        dataset: Source of the prompts and their number.
        seed: Seed of the choice of prompts.
        skipped: Collector of malformed rows; None: a malformed row is an error.

    Raises:
        DatasetInvalidError: The source cannot be read, a row is malformed, an id is used twice, or there are too few
            distinct rows.
        ArtifactCorruptError: The copy that was made at submit has changed.
    """
    wanted = dataset.num_prompts
    found: dict[str, Prompt] = {}
    ids: set[str] = set()
    rows = _rows(dataset, seed, skipped)
    if dataset.source.startswith(PREFIX):
        rows = itertools.islice(rows, 50 * wanted + 1000)  # a generator never runs out of rows
    for prompt in rows:
        content = prompt.content
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
    """Counts of a prompt file.

    Attributes:
        num_rows: Number of rows.
        num_distinct: Number of different conversations; counted up to the number that is enough.
    """

    num_rows: int
    num_distinct: int


def survey(rows: Iterable[Prompt], *, shown: str, enough: int, param: str = PARAM) -> Survey:
    """Count all prompts of a file, in memory that does not grow with the file.

    Args:
        rows: Rows from `read_rows`, which checks each.
        shown: Name of the file in messages.
        enough: Number of different prompts at which counting them stops.
        param: Field that names the file.

    Raises:
        DatasetInvalidError: Two different prompts have the same id.
    """
    contents: set[bytes] = set()
    ids: dict[bytes, bytes] = {}
    num_rows = 0
    for prompt in rows:
        num_rows += 1
        content = _digest(prompt.content)
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
    if Path(source).exists():  # the data set library would read the path; see `eda_service.names`
        raise DatasetInvalidError(f"{source!r} is a path here; write it as ./{source} or absolute", param=PARAM)
    return iter(_shuffled(_hugging_face(dataset, skipped), seed))


def _shuffled(prompts: list[Prompt], seed: int) -> list[Prompt]:
    random.Random(f"prompts:{seed}").shuffle(prompts)
    return prompts


def read_jsonl(path: Path, *, shown: str | None = None, skipped: SkippedRows | None = None) -> list[Prompt]:
    """Read all prompts of a file.

    Args:
        path: Path of the file.
        shown: Name of the file in messages; None: its path.
        skipped: Collector of malformed rows; None: a malformed row is an error.

    Raises:
        DatasetInvalidError: The file does not exist, has no row, or has a malformed row (with `skipped`: too many of
            them).
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
    """Read the prompts of a file one by one; at most one row is in memory.

    Args:
        stream: The file, at its start.
        shown: Name of the file in messages.
        param: Field that names the file.
        tee: Function that receives all bytes, unpacked, as they are read.
        skipped: Collector of malformed rows; None: a malformed row is an error.

    Raises:
        DatasetInvalidError: The file is too long, is in no known form, has no row, or has a malformed row (with
            `skipped`: too many of them).
        OSError: The file cannot be read to its end.
    """
    num_prompts = 0
    for row in rows_of(stream, shown=shown, param=param, tee=tee):
        try:
            if row.trouble is not None:
                raise DatasetInvalidError(f"{row.where}: {row.trouble}", param=param)
            prompt = parse_row(row.value, row.where, default_id=f"row-{row.number:07d}", param=param)
        except DatasetInvalidError as error:
            if skipped is None:
                raise
            skipped.add(error)
        else:
            num_prompts += 1
            yield prompt
    if skipped is not None:
        skipped.check(num_prompts, param)
    if not num_prompts and skipped is not None and skipped.num:
        raise DatasetInvalidError(f"{skipped.reasons[0]}; no row of {shown} holds a prompt", param=param)
    if not num_prompts:
        raise DatasetInvalidError(f"{shown} is empty; write one JSON object per line", param=param)


def parse_row(row: Any, where: str, *, default_id: str, param: str = PARAM) -> Prompt:
    """Parse one row in any of the accepted forms.

    Raises:
        DatasetInvalidError: The row is in no accepted form.
    """
    try:
        found = read_form(row)
    except RowError as error:
        raise DatasetInvalidError(f"{where}: {error}", param=param) from error
    name = row.get("id") or row.get("custom_id")
    if isinstance(name, list | dict):
        raise DatasetInvalidError(f"{where}: id is a {type(name).__name__}, not a text or a number", param=param)
    is_named = bool(name) and name == name  # noqa: PLR0124  # an empty cell of pandas is NaN
    return Prompt(
        id=str(name) if is_named else default_id,
        messages=found.messages,
        reference=found.reference,
        tools=found.tools,
        template_kwargs=found.template_kwargs,
        form=found.form,
    )


def _reasoning_gym(source: str, seed: int) -> Iterator[Prompt]:
    from eda_service.selfgen.gsm_symbolic import questions

    templates = templates_of(source, param=PARAM)
    first, last = templates.start, templates.stop - 1
    for index, question in enumerate(questions(templates, seed=seed)):
        yield Prompt(id=f"gsm-{first}-{last}-{index:06d}", messages=[{"role": "user", "content": question}])


def _without_none(value: Any) -> Any:
    """Drop keys whose value is None: a data set's rows all have the same columns, which are filled up with None."""
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value


def _hugging_face(dataset: DatasetSpec, skipped: SkippedRows | None) -> list[Prompt]:
    """Read rows of a hub data set."""
    prompts = []
    for index, row in enumerate(hub_rows(dataset)):
        where = f"{dataset.source}[{index}]"
        try:
            prompts.append(parse_row(_without_none(dict(row)), where, default_id=f"row-{index:07d}"))
        except DatasetInvalidError as error:
            if skipped is None:
                raise
            skipped.add(error)
    if skipped is not None:
        skipped.check(len(prompts), PARAM)
    return prompts
