"""JSON values that are passed on unchanged (tool schemas, template variables), of bounded depth and with valid text."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

MAX_DEPTH = 48
_SURROGATES = range(0xD800, 0xE000)


def _checked(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value if it is no deeper than `MAX_DEPTH` and every string in it is valid text."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        here, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise PydanticCustomError("depth", f"nested deeper than {MAX_DEPTH}; make it flatter")  # type: ignore[arg-type]
        if isinstance(here, dict):
            waiting += [(name, depth) for name in here]
            waiting += [(each, depth + 1) for each in here.values()]
        elif isinstance(here, list):
            waiting += [(each, depth + 1) for each in here]
        elif isinstance(here, str) and not here.isascii() and any(ord(each) in _SURROGATES for each in here):
            raise PydanticCustomError("text", "has half of a surrogate pair, which is no text; leave it out")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_checked)]
