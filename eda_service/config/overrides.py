"""Overrides: values given by hand, by file or by request replace those of a preset.

All values become a nested dict and are merged by one rule, whether they were written as JSON, as `section.field=value`,
or as an argument of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from eda_service.errors import InputError


def merge(base: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Put nested overrides on top of a nested dict; a value that is not a dict replaces the old one."""
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def at_path(path: str, value: Any) -> dict[str, Any]:
    """Turn the path `a.b` and a value into `{"a": {"b": value}}`."""
    head, dot, rest = path.partition(".")
    return {head: at_path(rest, value) if dot else value}


def at_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn values by dotted path into one nested dict; later values replace earlier ones."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        nested = merge(nested, at_path(path, value))
    return nested


def parse_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """Parse assignments `section.field=value` into `{"section": {"field": value}}`; a value that is not JSON is a
    string.

    Raises:
        InputError: An assignment has no `=`, an empty part in its path, or a path through a value that another one has
            set.
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
        place[last] = json_or_text(value)
    return nested


def json_or_text(text: str) -> Any:
    """Read a value of a command line: JSON where it is that, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
