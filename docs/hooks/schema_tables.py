"""Pydantic models as Markdown tables: field, type, default, bounds, and the description that the field carries."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

_BOUNDS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "at most {}"),
    ("minLength", "{} characters or more"),
    ("maxLength", "at most {} characters"),
    ("minItems", "{} entries or more"),
    ("maxItems", "at most {} entries"),
)
Naming = Callable[[str], str]


def sections(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """A table of a model's own fields, then a section for each model inside it.

    Args:
        model: Whose fields.
        path: Dotted name of the model in the whole; empty at the top.
    """
    schema = model.model_json_schema()
    defs = schema.get("$defs", {})
    yield from _section(schema, defs, path)


def _section(schema: dict[str, Any], defs: dict[str, Any], path: str) -> Iterator[str]:
    if path:
        yield f"## `{path}`"
    yield inspect.cleandoc(schema.get("description", ""))
    yield table(schema, defs, lambda name: f"{path}.{name}" if path else name)
    for name, field in schema["properties"].items():
        inner = _inner(field, defs)
        if inner is not None:
            yield from _section(inner, defs, f"{path}.{name}" if path else name)


def table(schema: dict[str, Any], defs: dict[str, Any], naming: Naming) -> str:
    """The fields of one model."""
    lines = ["| Field | Type | Default | Bounds | |", "|---|---|---|---|---|"]
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        inner = _inner(field, defs)
        shown = f"`{naming(name)}`"
        if inner is not None:
            kind, default = "see below", "off" if "default" in field and field["default"] is None else ""
        else:
            kind = _type(field, defs)
            default = "required" if name in required else _default(field)
        text = field.get("description") or ("" if inner is None else inner.get("description", "").split("\n")[0])
        cells = (shown, kind, default, _bounds(field), " ".join(text.split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _alternatives(field: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in field.get("anyOf", [field]) if each.get("type") != "null"]


def _resolved(field: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = defs[field["$ref"].rsplit("/", 1)[-1]] if "$ref" in field else field
    return found


def _inner(field: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any] | None:
    """The model that a field holds, if it holds one."""
    for each in _alternatives(field):
        found = _resolved(each, defs)
        if "properties" in found:
            return found
    return None


def _type(field: dict[str, Any], defs: dict[str, Any]) -> str:
    names = []
    for each in _alternatives(field):
        found = _resolved(each, defs)
        if "enum" in found:
            names.append(", ".join(f"`{value}`" for value in found["enum"]))
        elif found.get("type") == "array":
            names.append(f"list of {_type(found['items'], defs)}")
        else:
            names.append(str(found.get("format") or found["type"]))
    return " or ".join(names)


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    return "none" if value is None else f"`{json.dumps(value)}`"


def _bounds(field: dict[str, Any]) -> str:
    found = []
    for each in _alternatives(field):
        found += [text.format(_plain(each[key])) for key, text in _BOUNDS if key in each]
        if each.get("type") == "array":
            found += [f"each {text}" for text in filter(None, [_bounds(each["items"])])]
    return ", ".join(found)


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}"
