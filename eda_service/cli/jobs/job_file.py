"""A whole job in a file: the body of `POST /v1/adaptations` as YAML or JSON, on which flags are laid.

    model: smollm2-135m-math
    preset: demo
    dataset: {source: ./prompts.jsonl, num_prompts: 320}
    config:
      train: {epochs: 4}

A path in it that begins with `./` or `../` is meant from where the file lies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from eda_service.errors import InputError
from eda_service.storage.inputs import bounded_json

_MAX_BYTES = 1 << 20  # of a request
_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")  # YAML 1.1 takes 4e-5 for text
_PATHS = (("model",), ("adapter",), ("dataset", "source"), ("eval_dataset", "source"))


def read_job_file(path: Path) -> dict[str, Any]:
    """What the file says; the service checks its fields.

    Raises:
        InputError: It cannot be read, is larger than a request may be, or holds something else than an object of
            plain values with each key once.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes, which a request may have")
        text = data.decode("utf-8")
        values = bounded_json.parse(text, unique_keys=True) if path.suffix == ".json" else _yaml(text)
        if not isinstance(values, dict):
            raise ValueError("it holds no fields; write `model: ...`")
        json.dumps(values, allow_nan=False)
    except OSError as error:
        raise InputError(f"--config {path} cannot be read: {error.strerror}; check the path", param="config") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"--config {path}: {_in_words(error)}; correct the file", param="config") from error
    for places in _PATHS:
        _from_file(values, places, path.absolute().parent)
    return values


def _in_words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split())
    return text.replace("Object of type date is not JSON serializable", "it holds a date; put it in quotes")[:300]


def _from_file(values: Mapping[str, Any], places: tuple[str, ...], directory: Path) -> None:
    """Make one relative path of the file absolute."""
    holder: Any = values
    for place in places[:-1]:
        holder = holder.get(place) if isinstance(holder, Mapping) else None
    found = holder.get(places[-1]) if isinstance(holder, dict) else None
    if isinstance(found, str) and found.startswith(("./", "../")):
        holder[places[-1]] = str((directory / found).resolve())


def _yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped]  # takes as long to import as a command may take to complete

    class UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]  # untyped
        """YAML's safe kind, in which no key stands twice and nothing refers to something else."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                line = self.peek_event().start_mark.line + 1
                raise ValueError(f"line {line} refers to another place with `*`; write it out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for place, key in enumerate(keys):
                if not isinstance(key, str):
                    raise ValueError(
                        f"line {node.start_mark.line + 1}: the key {str(key)[:64]} is no text; put it in quotes"
                    )
                if key in keys[:place]:
                    raise ValueError(f"line {node.start_mark.line + 1}: {key[:64]} stands twice; leave one out")
            made: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
            return made

    UniqueKeys.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
    try:
        return yaml.load(text, Loader=UniqueKeys)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {error}") from error
