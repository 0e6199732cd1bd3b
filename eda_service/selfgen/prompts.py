"""Domain prompts from a JSONL file, a Hugging Face dataset, or reasoning-gym.

Accepted rows: {"messages": [{"role", "content"}, ...]} ending with a user message, or {"prompt": "text"}, each with an
optional "id" and an optional "reference", the data set's own answer (for `selfgen.answers=dataset`). Nothing is dropped
silently: a malformed row is an error that names its line.

`read_rows` is the one reader of such a file: at submit, where it is copied meanwhile, and in the job, which reads the
copy (`DatasetSpec.sha256`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
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
from eda_service.selfgen.tasks import PREFIX, templates_of

PARAM = "dataset.source"
MAX_FILE_BYTES = 2 << 30
_MAX_IDS = 1 << 18  # ids that are compared at submit; the job compares those of the prompts it takes
_ROLES = ("assistant", "system", "user")  # no set: a row may hold a list here, which a set cannot be asked for


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


def general_prompts_file() -> Path:
    """The general prompts that ship with the package, written by SmolLM2 itself."""
    return Path(str(resources.files("eda_service") / "assets" / "general_prompts.jsonl"))


def load_prompts(dataset: DatasetSpec, *, seed: int) -> list[Prompt]:
    """Exactly `num_prompts` distinct prompts, the same ones for the same seed.

    Raises:
        DatasetInvalidError: The source cannot be read, a row is malformed, an id is used twice, or there are too few
            distinct rows.
        ArtifactCorruptError: The copy that was made at submit has changed.
    """
    wanted = dataset.num_prompts
    found: dict[str, Prompt] = {}
    ids: set[str] = set()
    for prompt in itertools.islice(_rows(dataset, seed), 50 * wanted + 1000):
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


def _rows(dataset: DatasetSpec, seed: int) -> Iterator[Prompt]:
    source = dataset.source
    if source.startswith(PREFIX):
        return _reasoning_gym(source, seed)
    if dataset.sha256 is not None:
        return iter(_shuffled(read_jsonl(find_copy(dataset.sha256, source, home_dir()), shown=source), seed))
    if not is_model_id(source):
        return iter(_shuffled(read_jsonl(Path(source)), seed))
    if Path(source).exists():  # the data set library would read it; see `eda_service.names`
        raise DatasetInvalidError(f"{source!r} is a path here; write it as ./{source} or absolute", param=PARAM)
    return iter(_shuffled(_hugging_face(dataset), seed))


def _shuffled(prompts: list[Prompt], seed: int) -> list[Prompt]:
    random.Random(f"prompts:{seed}").shuffle(prompts)
    return prompts


def read_jsonl(path: Path, *, shown: str | None = None) -> list[Prompt]:
    """All prompts of a JSON lines file.

    Args:
        path: The file.
        shown: What messages call it; None: its path.

    Raises:
        DatasetInvalidError: No such file, no row, or a malformed row.
    """
    name = shown or str(path)
    try:
        with path.open("rb") as stream:
            return list(read_rows(stream, shown=name))
    except OSError as error:
        raise DatasetInvalidError(f"{name} cannot be read as UTF-8 text: {error.strerror}", param=PARAM) from error


def read_rows(
    stream: BinaryIO, *, shown: str, param: str = PARAM, tee: Callable[[bytes], None] | None = None
) -> Iterator[Prompt]:
    """The prompts of a JSON lines file one by one; not more than a line of it is in memory.

    Args:
        stream: The file, at its start.
        shown: What messages call it.
        param: The field that names it.
        tee: Given every line as it is read.

    Raises:
        DatasetInvalidError: The file or a line is too long, no row, or a malformed row.
        OSError: It cannot be read on.
    """
    num_bytes = num_prompts = 0
    for number in itertools.count(1):
        # Not splitlines(): U+2028 and its like are legal inside a JSON string.
        line = stream.readline(MAX_ROW_BYTES + 2)  # with its end
        if not line:
            break
        num_bytes += len(line)
        where = f"{shown}, line {number}"
        if len(line.removesuffix(b"\n").removesuffix(b"\r")) > MAX_ROW_BYTES:
            raise DatasetInvalidError(f"{where}: more than {MAX_ROW_BYTES} bytes; shorten it", param=param)
        if num_bytes > MAX_FILE_BYTES:
            raise DatasetInvalidError(f"{shown} has more than {MAX_FILE_BYTES} bytes; split it", param=param)
        if tee is not None:
            tee(line)
        if line.strip():
            num_prompts += 1
            yield _parse_line(line, where, number, param)
    if not num_prompts:
        raise DatasetInvalidError(f"{shown} is empty; write one JSON object per line", param=param)


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
    """One row in either accepted form.

    Raises:
        DatasetInvalidError: It is in neither.
    """
    if not isinstance(row, Mapping):
        raise DatasetInvalidError(f"{where}: a {type(row).__name__}, not an object", param=param)
    messages = row.get("messages")
    if messages is None and isinstance(row.get("prompt"), str):
        messages = [{"role": "user", "content": row["prompt"]}]
    if not isinstance(messages, list) or not messages:
        keys = [key[:64] for key in sorted(row)[:8]]
        raise DatasetInvalidError(
            f'{where}: neither {{"messages": [...]}} nor {{"prompt": "text"}}; its keys are {keys}', param=param
        )
    for message in messages:
        if not (
            isinstance(message, Mapping)
            and message.get("role") in _ROLES
            and isinstance(message.get("content"), str)
            and message["content"].strip()
        ):
            raise DatasetInvalidError(
                f"{where}: each message needs a role of {list(_ROLES)} and a content that is not empty", param=param
            )
    if messages[-1]["role"] != "user":
        raise DatasetInvalidError(
            f"{where}: the last message is not the user's, so there is nothing to answer", param=param
        )
    name = row.get("id")
    if isinstance(name, list | dict):
        raise DatasetInvalidError(f"{where}: id is a {type(name).__name__}, not a text or a number", param=param)
    clean = [{"role": message["role"], "content": message["content"]} for message in messages]
    reference = row.get("reference")
    text = reference if isinstance(reference, str) and reference else None
    return Prompt(id=str(name or default_id), messages=clean, reference=text)


def _reasoning_gym(source: str, seed: int) -> Iterator[Prompt]:
    from eda_service.selfgen.gsm_symbolic import questions

    templates = templates_of(source, param=PARAM)
    first, last = templates.start, templates.stop - 1
    for index, question in enumerate(questions(templates, seed=seed)):
        yield Prompt(id=f"gsm-{first}-{last}-{index:06d}", messages=[{"role": "user", "content": question}])


def _hugging_face(dataset: DatasetSpec) -> list[Prompt]:
    """Rows of a hub data set; columns messages, prompt or question."""
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
        value = dict(row)
        if "messages" not in value and "prompt" not in value and isinstance(value.get("question"), str):
            value["prompt"] = value["question"]
        prompts.append(parse_row(value, f"{dataset.source}[{index}]", default_id=f"row-{index:07d}"))
    return prompts
