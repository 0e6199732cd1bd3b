"""The tree of all commands as plain values, for completion: what follows what, and of what kind each value is."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import types
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from eda_service.storage.files import temporary_name


def write_tree(path: Path, *, form: int, stamp: str) -> Mapping[str, Any]:
    """Describe the commands, keep that for the next time where it can be kept, and return it.

    Args:
        path: Of the file.
        form: How the file is to be read.
        stamp: Of which commands it is.
    """
    import typer.main

    from eda_service.cli.main import app

    tree = _node(typer.main.get_command(app))
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time and nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        temporary.write_text(json.dumps({"form": form, "stamp": stamp, "tree": tree}), encoding="utf-8")
        os.replace(temporary, path)
    return tree


def _node(command: Any) -> dict[str, Any]:
    sources = _sources(inspect.unwrap(command.callback)) if command.callback is not None else {}
    options: dict[str, Any] = {"--help": {"help": "Show this message and exit."}}
    arguments = []
    for parameter in command.params:
        source = sources.get(parameter.name, {})
        if parameter.param_type_name == "argument":
            arguments.append({**source, "many": True} if parameter.nargs == -1 else source)
        elif not parameter.hidden:
            said = {"help": str(parameter.help or "").split("\n")[0]}
            value = {} if parameter.is_flag else {"value": source}
            names = [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")]
            options |= {name: {**said, **value} for name in names}
    node: dict[str, Any] = {"help": command.get_short_help_str(80), "options": options, "arguments": arguments}
    if hasattr(command, "commands"):
        node["commands"] = {name: _node(each) for name, each in command.commands.items() if not each.hidden}
    return node


def _sources(callback: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Of each parameter, what its value may be."""
    found = {}
    for name, annotation in get_type_hints(callback, include_extras=True).items():
        given = [getattr(each, "autocompletion", None) for each in getattr(annotation, "__metadata__", ())]
        complete = next((each for each in given if each is not None), None)
        if complete is None:
            words = _words(annotation)
            found[name] = {"words": words} if words else {}
        elif hasattr(complete, "offers"):
            found[name] = {"kind": complete.offers}
        else:
            found[name] = {"words": [str(word) for word in complete("")]}
    return found


def _words(annotation: Any) -> list[str]:
    """The words that a value is one of; none where it is free."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(each.value) for each in annotation]
    origin = get_origin(annotation)
    if origin is Literal:
        return [str(word) for word in get_args(annotation)]
    if origin is Annotated:
        return _words(get_args(annotation)[0])
    if origin in {Union, types.UnionType, list, tuple}:
        return [word for each in get_args(annotation) for word in _words(each)]
    return []
