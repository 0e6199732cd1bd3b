"""The OpenAPI document as values for its pages: operations by tag, and the schemas that the tag's operations use.

The pages are rendered by this project and not by Swagger UI or ReDoc: their scripts weigh 1.1 to 1.7 MB, five times the
limit for a page here, need inline scripts and styles, and are loaded from a third party unless copies are kept. In
place of their forms that send requests, the pages have commands to copy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_REF = "#/components/schemas/"
_METHODS = ("get", "post", "put", "patch", "delete")
_MAX_DEPTH = 4
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}
Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Word:
    """A part of a type's description; `schema` names the schema that the part stands for, if any."""

    text: str
    schema: str | None = None


@dataclass(frozen=True)
class Field:
    """A parameter of an operation, or a field of a schema.

    Attributes:
        place: Part of the request that holds the field: path, query, header or body.
        type: Type in words.
        default: Default value as JSON; None: no default.
        bounds: Limits of a value, in words.
    """

    name: str
    place: str
    type: tuple[Word, ...]
    is_required: bool
    default: str | None
    bounds: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Answer:
    """The answer with one status."""

    status: str
    description: str
    type: tuple[Word, ...]


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        anchor: Anchor of the operation on the page of its tag.
        command: A curl command with the required fields of the body.
    """

    method: str
    path: str
    anchor: str
    description: str
    parameters: tuple[Field, ...]
    body: tuple[Word, ...]
    answers: tuple[Answer, ...]
    command: str


@dataclass(frozen=True)
class Section:
    """The operations of a tag, and every schema that they use, by name."""

    tag: str
    operations: tuple[Operation, ...]
    schemas: dict[str, tuple[Field, ...]]
    told: dict[str, str]


def sections(document: Mapping[str, Any], base_url: str) -> list[Section]:
    """List every tag with its operations, in the document's order of paths.

    Args:
        document: The document, OpenAPI 3.1.
        base_url: Base URL of the service, for the commands.
    """
    schemas: Mapping[str, Schema] = document["components"]["schemas"]
    by_tag: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, operations in document["paths"].items():
        for method in (each for each in _METHODS if each in operations):
            tag = operations[method].get("tags", ["others"])[0]
            by_tag.setdefault(tag, []).append((method, path, operations[method]))
    return [_section(tag, found, schemas, base_url) for tag, found in sorted(by_tag.items())]


def _section(tag: str, found: list[tuple[str, str, Schema]], schemas: Mapping[str, Schema], base_url: str) -> Section:
    names = _reached([each for *_, each in found], schemas)
    return Section(
        tag,
        tuple(_operation(method, path, each, schemas, base_url) for method, path, each in found),
        {name: _fields(schemas[name]) for name in names},
        {name: schemas[name].get("description", "") for name in names},
    )


def _operation(method: str, path: str, found: Schema, schemas: Mapping[str, Schema], base_url: str) -> Operation:
    body = _schema_of(found.get("requestBody", {}))
    return Operation(
        method=method.upper(),
        path=path,
        anchor=re.sub(r"[^a-z0-9]+", "-", f"{method}{path}".lower()).strip("-"),
        description=found.get("description", ""),
        parameters=tuple(
            _field(each["name"], each["schema"], place=each["in"], is_required=each.get("required", False), of=each)
            for each in found.get("parameters", ())
        ),
        body=() if body is None else tuple(_words(body)),
        answers=tuple(_answer(status, each) for status, each in found["responses"].items()),
        command=_command(method, path, body, schemas, base_url),
    )


def _schema_of(found: Schema) -> Schema | None:
    """Return the schema of a body, of any content type."""
    return next((each.get("schema") for each in found.get("content", {}).values()), None)


def _answer(status: str, found: Schema) -> Answer:
    content = _schema_of(found)
    told = "any other" if status == "default" else status
    return Answer(told, found.get("description", ""), () if content is None else tuple(_words(content)))


def _fields(schema: Schema) -> tuple[Field, ...]:
    required = set(schema.get("required", ()))
    return tuple(
        _field(name, each, place="body", is_required=name in required, of=each)
        for name, each in schema.get("properties", {}).items()
    )


def _field(name: str, schema: Schema, *, place: str, is_required: bool, of: Schema) -> Field:
    choices = [schema, *(each for each in schema.get("anyOf", ()) if each.get("type") != "null")]
    bounds = [told.format(each[key]) for each in choices for key, told in _BOUNDS.items() if key in each]
    default = json.dumps(schema["default"]) if "default" in schema else None
    description = of.get("description") or schema.get("description") or ""
    return Field(name, place, tuple(_words(schema)), is_required, default, tuple(bounds), description)


def _words(schema: Schema) -> Iterator[Word]:
    """Describe a type in words."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(_REF)
        yield Word(name, name)
    elif choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        for place, each in enumerate(choices):
            if place:
                yield Word(" or ")
            yield from _words(each)
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        yield Word(" or ".join(json.dumps(each) for each in values))
    elif schema.get("type") == "array":
        yield Word("list of ")
        yield from _words(schema.get("items", {}))
    elif schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        yield Word("object of ")
        yield from _words(schema["additionalProperties"])
    else:
        yield Word(str(schema.get("type", "anything")))


def _reached(found: Any, schemas: Mapping[str, Schema]) -> list[str]:
    """List the schemas that a value refers to, directly or through other schemas, by name."""
    names: set[str] = set()
    waiting = [found]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            name = str(each.get("$ref", "")).removeprefix(_REF)
            if name in schemas and name not in names:
                names.add(name)
                waiting.append(schemas[name])
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return sorted(names)


def _command(method: str, path: str, body: Schema | None, schemas: Mapping[str, Schema], base_url: str) -> str:
    """Write the operation as a curl command."""
    address = re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), path)
    lines = [f"curl -X {method.upper()} {base_url}{address}" if method != "get" else f"curl {base_url}{address}"]
    lines.append('-H "Authorization: Bearer $EDA_API_KEY"')
    if body is not None:
        lines += ["-H 'Content-Type: application/json'", f"-d '{json.dumps(_example(body, schemas, 0))}'"]
    return " \\\n  ".join(lines)


def _example(schema: Schema, schemas: Mapping[str, Schema], depth: int) -> Any:
    """Make the smallest example of a schema."""
    if "$ref" in schema:
        schema = schemas.get(str(schema["$ref"]).removeprefix(_REF), {})
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return _example(choices[0], schemas, depth)
    if "default" in schema:
        return schema["default"]
    if "enum" in schema or "const" in schema:
        return schema.get("enum", [schema.get("const")])[0]
    kind = schema.get("type")
    if kind == "object" and depth < _MAX_DEPTH:
        required = set(schema.get("required", ()))
        wanted = {name: each for name, each in schema.get("properties", {}).items() if name in required}
        return {name: _named(name, each, schemas, depth + 1) for name, each in wanted.items()}
    if kind == "array":
        return [_example(schema.get("items", {}), schemas, depth + 1)] if schema.get("minItems") else []
    return {"integer": 1, "number": 1.0, "boolean": True, "null": None, "object": {}}.get(str(kind), "...")


def _named(name: str, schema: Schema, schemas: Mapping[str, Schema], depth: int) -> Any:
    """Make an example of a field; the example of a text is the field's name."""
    found = _example(schema, schemas, depth)
    return name.upper() if found == "..." else found
