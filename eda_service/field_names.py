"""Messages about an unknown field: its dotted name, with the field that was probably meant or the list of fields."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from eda_service.names import close_names

_MAX_LISTED = 12


def unknown_field(model: type[BaseModel], loc: Sequence[str | int], field: str) -> str:
    """Make the message for pydantic's error `extra_forbidden`.

    Args:
        model: Model that was validated.
        loc: Path of the unknown field in `model`; the last part is its name.
        field: Dotted name of the field, as it may be shown.
    """
    parent = _model_at(model, loc[:-1])
    if parent is None or not loc:
        return f"no field {field}; leave it out"
    prefix = "".join(f"{part}." for part in loc[:-1] if isinstance(part, str))
    close = close_names(str(loc[-1]), parent.model_fields)
    if close:
        return f"no field {field}; did you mean {' or '.join(prefix + name for name in close)}?"
    names = sorted(parent.model_fields)
    more = ", ..." if len(names) > _MAX_LISTED else ""
    return f"no field {field}; there are {', '.join(names[:_MAX_LISTED])}{more}"


def _model_at(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the model that contains the place; None if the place is inside a value that is no model."""
    here: Any = model
    for part in loc:
        here = _model_in(here)
        if here is None or not isinstance(part, str) or part not in here.model_fields:
            return None
        here = here.model_fields[part].annotation
    return _model_in(here)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model of an annotation such as `TreeConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {Annotated, Union, types.UnionType}:
        found = [model for each in get_args(annotation) if (model := _model_in(each)) is not None]
        return found[0] if len(found) == 1 else None
    return None
