"""Domain prompts from a JSONL file, a Hugging Face dataset, or reasoning-gym.

Accepted rows: {"messages": [{"role", "content"}, ...]} ending with a user message, or {"prompt": "text"}, each with an
optional "id" and an optional "reference", the data set's own answer (for `selfgen.answers=dataset`). Nothing is dropped
silently: a malformed row is an error that names its line.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from eda_service.artifacts import bounded_json
from eda_service.config import DatasetSpec
from eda_service.errors import DatasetInvalidError
from eda_service.names import is_model_id
from eda_service.records import MAX_ROW_BYTES
from eda_service.selfgen.tasks import PREFIX, templates_of

PARAM = "dataset.source"
MAX_FILE_BYTES = 2 << 30
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
    """
    wanted = dataset.num_prompts
    found: dict[str, Prompt] = {}
    ids: set[str] = set()
    for prompt in itertools.islice(_rows(dataset, seed), 50 * wanted + 1000):
        content = json.dumps(prompt.messages)
        if content in found:
            continue
        if prompt.id in ids:
            raise DatasetInvalidError(
                f"{dataset.source}: two different prompts have the id {prompt.id[:64]!r}; make ids unique or leave "
                "them out",
                param=PARAM,
            )
        ids.add(prompt.id)
        found[content] = prompt
        if len(found) == wanted:
            return list(found.values())
    raise DatasetInvalidError(
        f"{dataset.source} has {len(found)} distinct prompts, dataset.num_prompts is {wanted}; lower it or add prompts",
        param=PARAM,
    )


def _rows(dataset: DatasetSpec, seed: int) -> Iterator[Prompt]:
    source = dataset.source
    if source.startswith(PREFIX):
        return _reasoning_gym(source, seed)
    if not is_model_id(source):
        return iter(_shuffled(read_jsonl(Path(source)), seed))
    if Path(source).exists():  # the data set library would read it; see `eda_service.names`
        raise DatasetInvalidError(f"{source!r} is a path here; write it as ./{source} or absolute", param=PARAM)
    return iter(_shuffled(_hugging_face(dataset), seed))


def _shuffled(prompts: list[Prompt], seed: int) -> list[Prompt]:
    random.Random(f"prompts:{seed}").shuffle(prompts)
    return prompts


def read_jsonl(path: Path) -> list[Prompt]:
    """All prompts of a JSON lines file.

    Raises:
        DatasetInvalidError: No such file, no row, or a malformed row.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DatasetInvalidError(
                f"{path} has {path.stat().st_size} bytes, at most {MAX_FILE_BYTES} are read; split it", param=PARAM
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetInvalidError(f"{path} cannot be read as UTF-8 text: {error}", param=PARAM) from error
    prompts = []
    # Not splitlines(): U+2028 and its like are legal inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        if len(line) > MAX_ROW_BYTES:
            raise DatasetInvalidError(
                f"{where}: {len(line)} characters, at most {MAX_ROW_BYTES} are allowed; shorten it", param=PARAM
            )
        try:
            row = bounded_json.parse(line)
        except json.JSONDecodeError as error:
            raise DatasetInvalidError(
                f"{where}: not JSON ({error.msg} at column {error.colno})", param=PARAM
            ) from error
        except ValueError as error:
            raise DatasetInvalidError(f"{where}: not JSON ({error})", param=PARAM) from error
        prompts.append(parse_row(row, where, default_id=f"row-{number:07d}"))
    if not prompts:
        raise DatasetInvalidError(f"{path} is empty; write one JSON object per line", param=PARAM)
    return prompts


def parse_row(row: Any, where: str, *, default_id: str) -> Prompt:
    """One row in either accepted form.

    Raises:
        DatasetInvalidError: It is in neither.
    """
    if not isinstance(row, Mapping):
        raise DatasetInvalidError(f"{where}: a {type(row).__name__}, not an object", param=PARAM)
    messages = row.get("messages")
    if messages is None and isinstance(row.get("prompt"), str):
        messages = [{"role": "user", "content": row["prompt"]}]
    if not isinstance(messages, list) or not messages:
        raise DatasetInvalidError(
            f'{where}: neither {{"messages": [...]}} nor {{"prompt": "text"}}; its keys are {sorted(row)[:8]}',
            param=PARAM,
        )
    for message in messages:
        if not (
            isinstance(message, Mapping)
            and message.get("role") in _ROLES
            and isinstance(message.get("content"), str)
            and message["content"].strip()
        ):
            raise DatasetInvalidError(
                f"{where}: each message needs a role of {list(_ROLES)} and a content that is not empty", param=PARAM
            )
    if messages[-1]["role"] != "user":
        raise DatasetInvalidError(
            f"{where}: the last message is not the user's, so there is nothing to answer", param=PARAM
        )
    clean = [{"role": message["role"], "content": message["content"]} for message in messages]
    reference = row.get("reference")
    text = reference if isinstance(reference, str) and reference else None
    return Prompt(id=str(row.get("id") or default_id), messages=clean, reference=text)


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
