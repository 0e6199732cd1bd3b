"""Values over values: how what is given by hand, by file or by request goes on top of a preset.

Everything becomes a nested dict and is merged by one rule, whether it was written as JSON, as `section.field=value`, or
as an argument of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from eda_service.errors import InputError


def merge(base: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested overrides on top of a nested dict; values that are not dicts replace."""
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def at_path(path: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as `{"a": {"b": value}}`."""
    head, dot, rest = path.partition(".")
    return {head: at_path(rest, value) if dot else value}


def at_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted path as one nested dict, later ones winning."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        nested = merge(nested, at_path(path, value))
    return nested


def parse_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """What several `--set section.field=value` say: `{"section": {"field": value}}`; no JSON is a string.

    Raises:
        InputError: No `=`, an empty part in the path, or a path through a value that another one has set.
    """
    nested: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not all(path.split(".")):
            raise InputError(f"--set {text!r} is not of the form section.field=value", param="set")
        place = nested
        *parents, last = path.split(".")
        for part in parents:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise InputError(f"--set {text!r} goes through a field that another --set gave a value", param="set")
        place[last] = _value(value)
    return nested


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
