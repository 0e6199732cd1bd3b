"""Errors of a field that may be one of several things, such as a number or an object.

Pydantic answers with the errors of each member of such a union, and puts a word of its own for the member into the
place of the error (`replicas.constrained-int`). Here they become what a person meant: the errors of the member that the
value is of the kind of, or one error that says all kinds. An error of a key stands at the object whose key it is.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Entry = Mapping[str, Any]

UNION, IS_KEY = "eda_union", "is_key"
"""The kind of an error of ours: no member fits; and what an entry has whose value is a key of the object there."""
_KEY = "[key]"
_OF_ANOTHER_KIND = ("_type", "_parsing", "_parsing_size", "_from_float")
_WORDS = frozenset({"literal_error", "enum"})
_PLAIN: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}


def told_once(errors: Sequence[Entry], model: type[BaseModel] | None, *, skip: int = 0) -> list[Entry]:
    """Pydantic's errors with the place of each in the words of the model, and one error for what fits no member.

    Args:
        errors: `ValidationError.errors()`.
        model: Model that was validated; without it errors of unions stay as they are.
        skip: Leading parts of each `loc` that are not of the model, such as `body`.
    """
    groups: dict[tuple[Any, ...], list[tuple[Entry, tuple[int, ...]]]] = {}
    for number, error in enumerate(errors):
        tags = () if model is None else _tags(model, tuple(error["loc"]), skip) or ()
        where = ("union", *error["loc"][: tags[0]]) if tags else ("alone", number)
        groups.setdefault(where, []).append((error, tags))
    return [each for group in groups.values() for each in _as_meant(group, model, skip)]


def _as_meant(group: Sequence[tuple[Entry, tuple[int, ...]]], model: Any, skip: int) -> Iterator[Entry]:
    """The errors of one union as those of the member that was meant, or as one; an error of no union as it is."""
    first, tags = group[0]
    if not tags:
        yield _without_key(first)
        return
    meant = [(error, at) for error, at in group if not _is_of_another_kind(error, at)]
    if not meant:
        loc = tuple(first["loc"][: tags[0]])
        wanted = " or ".join(_wanted(each) for each in _members(_annotation_at(model, loc[skip:])))
        yield {"type": UNION, "loc": loc, "msg": "", "input": first["input"], "ctx": {"wanted": wanted}}
        return
    chosen = meant[0][0]["loc"][tags[0]]
    for error, at in meant:
        if error["loc"][at[0]] == chosen:
            loc = tuple(part for place, part in enumerate(error["loc"]) if place not in at)
            yield _without_key({**error, "loc": loc})


def _is_of_another_kind(error: Entry, tags: tuple[int, ...]) -> bool:
    """Whether a member was not meant, as the whole value is of another kind than it."""
    is_whole, kind = len(error["loc"]) == tags[0] + 1, str(error["type"])
    return is_whole and (kind in _WORDS or kind.endswith(_OF_ANOTHER_KIND))


def _without_key(error: Entry) -> Entry:
    loc = tuple(error["loc"])
    return {**error, "loc": loc[:-2], IS_KEY: True} if loc[-1:] == (_KEY,) else error


def _tags(annotation: Any, loc: tuple[Any, ...], at: int) -> tuple[int, ...] | None:
    """Places in an error's `loc`, from one on, that name members of unions; None: it is no place in there."""
    if at == len(loc):
        return ()
    members = _members(annotation)
    if len(members) > 1:
        deeper = (_tags(each, loc, at + 1) for each in members)
        return (at, *next((found for found in deeper if found is not None), ()))
    found = _step(members[0], loc[at])
    if found is None:
        return () if at + 1 == len(loc) else None
    return _tags(found, loc, at + 1)


def _annotation_at(annotation: Any, loc: tuple[Any, ...]) -> Any:
    for part in loc:
        annotation = _step(_members(annotation)[0], part)
    return annotation


def _step(annotation: Any, part: Any) -> Any:
    """Return the value at one part of a place; None where there is nothing of the kind."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        named = {field.alias or name: field for name, field in annotation.model_fields.items()}
        return named[part].annotation if part in named else None
    inner, origin = get_args(annotation), get_origin(annotation)
    if not inner or not isinstance(origin, type):
        return None
    return inner[-1] if issubclass(origin, Mapping) else inner[0]


def _members(annotation: Any) -> list[Any]:
    """Return the types that a value may have, beside null."""
    plain = _plain(annotation)
    if get_origin(plain) in {Union, types.UnionType}:
        return [each for each in get_args(plain) if each is not type(None)]
    return [plain]


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _wanted(member: Any) -> str:
    """Return in words which values a member takes."""
    plain = _plain(member)
    origin = get_origin(plain)
    if origin is Literal:
        return " or ".join(map(str, get_args(plain)))
    if isinstance(plain, type) and issubclass(plain, BaseModel):
        return f"an object of {', '.join(plain.model_fields)}"
    if isinstance(plain, type) and issubclass(plain, Enum):
        return " or ".join(str(each.value) for each in plain)
    return _PLAIN.get(origin or plain, "something else") + _bounds(member)


def _bounds(member: Any) -> str:
    given = [limit for each in getattr(member, "__metadata__", ()) for limit in getattr(each, "metadata", (each,))]
    low, high = (next((getattr(each, key) for each in given if getattr(each, key, None) is not None), None)
                 for key in ("ge", "le"))  # fmt: skip
    if low is None or high is None:
        return "" if low is None else f" of at least {low}"
    return f" from {low} to {high}"
