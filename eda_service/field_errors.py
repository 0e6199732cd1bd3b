"""Pydantic's validation errors as messages of ours: the field, its value, the limit and the next step.

A value is shown if it is a number or a truth value, or a short word where a list of words is allowed. No other text is
repeated: it may be secret, and it may be long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from eda_service.errors import InputError
from eda_service.field_names import unknown_field
from eda_service.field_unions import IS_KEY, UNION, told_once
from eda_service.names import NAME_PATTERN, NAME_RULE, did_you_mean

_WORD = re.compile(r"[A-Za-z0-9][\w.-]{0,31}")
_QUOTED = re.compile(r"'([^']*)'")
_MAX_NUMBER_CHARACTERS = 32
_KINDS = {dict: "an object", list: "a list", tuple: "a list", set: "a list", str: "text", type(None): "null"}
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a number that is finite",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "an object",
    "mapping": "an object",
    "model": "an object",
    "model_attributes": "an object",
    "path": "a path",
}
_LIMITS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("gt", "above {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "below {}"),
    "less_than_equal": ("le", "at most {}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
}


def field_error(
    error: Mapping[str, Any],
    *,
    name: str,
    loc: Sequence[Any] = (),
    model: type[BaseModel] | None = None,
) -> str:
    """Turn one entry of `ValidationError.errors()` into a sentence.

    Args:
        error: Entry of the list of errors, best one of `told_once`.
        name: Name of the field for the user; empty if the whole value is wrong.
        loc: Path of the field in `model`.
        model: Model that was validated; used to suggest a field name for an unknown field.
    """
    kind = str(error["type"])
    if error.get(IS_KEY):
        name = f"a key of {name}" if name else "a key"
    if kind == "extra_forbidden":
        return f"no field {name}; leave it out" if model is None else unknown_field(model, loc, name)
    if kind == "missing":
        return f"{name or 'the value'} is missing; give it"
    problem = _problem(kind, error)
    if problem is not None:
        return f"{name or 'the value'} {problem}"
    said = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{name}: {said}" if name else said


def first_error(error: ValidationError, model: type[BaseModel] | None = None, *, prefix: str = "") -> InputError:
    """Turn the first validation error of values that a person gave into an `InputError`.

    Args:
        error: Pydantic's error.
        model: Model that was validated.
        prefix: Text before the field's dotted name.
    """
    first = told_once(error.errors(include_url=False), model)[0]
    name = prefix + ".".join(map(str, first["loc"]))
    return InputError(field_error(first, name=name, loc=first["loc"], model=model), param=name or None)


def as_number(value: object) -> object:
    """Return a text of the shell as a number if it is one."""
    try:
        return float(value) if isinstance(value, str) and "." in value else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return value


def _problem(kind: str, error: Mapping[str, Any]) -> str | None:
    """Return the problem as words that follow the field's name; None: the error has words of its own."""
    context, value = error.get("ctx") or {}, error.get("input")
    if kind == UNION:
        return f"is {_shown(value)}; it must be {context['wanted']}"
    for ending in ("_parsing", "_parsing_size", "_type", "_from_float"):
        wanted = _WANTED.get(kind.removesuffix(ending)) if kind.endswith(ending) else _WANTED.get(kind)
        if wanted is not None:
            return f"is {_shown(value)}; it must be {wanted}"
    if kind in _LIMITS:
        key, limit = _LIMITS[kind]
        return f"is {_shown(value)}; it must be {limit.format(context[key])}"
    if kind in {"literal_error", "enum"}:
        return _not_one_of(value, str(context.get("expected", "")))
    return _LENGTHS[kind](context, value) if kind in _LENGTHS else None


def _not_one_of(value: Any, expected: str) -> str:
    words = _QUOTED.findall(expected)
    close = did_you_mean(value, words) if isinstance(value, str) else ""
    shown = repr(value) if isinstance(value, str) and _WORD.fullmatch(value) else _shown(value)
    return f"is {shown}; it must be {' or '.join(words) if words else expected}{close}"


def _too_long(context: Mapping[str, Any], value: Any) -> str:
    has = f" and has {len(value)}" if isinstance(value, str) else ""
    return f"may have at most {context['max_length']} characters{has}; shorten it"


def _too_short(context: Mapping[str, Any], value: Any) -> str:
    if value == "":
        return "is empty; give it a value"
    has = f" and has {len(value)}" if isinstance(value, str) else ""
    return f"must have at least {context['min_length']} characters{has}; lengthen it"


_LENGTHS: Mapping[str, Callable[[Mapping[str, Any], Any], str]] = {
    "string_too_long": _too_long,
    "string_too_short": _too_short,
    "too_long": lambda context, _: (
        f"has {context.get('actual_length') or 'more'} entries; at most {context['max_length']} are allowed"
    ),
    "too_short": lambda context, _: (
        f"has {context.get('actual_length', 0)} entries; at least {context['min_length']} are needed"
    ),
    "string_pattern_mismatch": lambda context, _: (
        f"is no name; a name is {NAME_RULE}"
        if context["pattern"] == f"^{NAME_PATTERN}$"
        else f"must have the form {context['pattern']}; correct it"
    ),
    "none_required": lambda _, value: f"is {_shown(value)}; it must be null, or left out",
}


def _shown(value: Any) -> str:
    """Return a value if it may be repeated in a message, otherwise its kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        text = str(value)
        return text if len(text) <= _MAX_NUMBER_CHARACTERS else f"a number of {len(text)} characters"
    return _KINDS.get(type(value), "something else")
