"""Conversion of rows into frozen values one by one: a row that cannot be read affects no other.

A row can be damaged in many ways: invalid JSON, a config of an older or newer version, text where SQLite was told to
keep a number. Reading such a row raises no exception for a caller that asked for a list. `read` leaves it out;
`reduced` gives the readable part, with placeholders for the rest and the reason in `unreadable`. Both log a damaged row
once, and count it until it can be read again.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import inspect

from eda_service.jobstore.models import Base
from eda_service.jobstore.row import Row

logger = logging.getLogger(__name__)

_MAX_TOLD = 10_000
_MAX_DEPTH = 64
_MAX_REASONS, _MAX_REASON_CHARACTERS = 5, 160
RowT = TypeVar("RowT", bound=Row)


class Malformed:
    """Placeholder for a JSON column's text that does not parse; no type accepts it, so validation refuses it."""

    def __repr__(self) -> str:
        return "<malformed JSON>"


MALFORMED = Malformed()


def from_json(text: Any) -> Any:
    """Parse a JSON column, for both engines; return `MALFORMED` instead of an exception, which would end the query.

    Values that can be read but not written again in an answer are changed here: halves of surrogate pairs become
    U+FFFD, numbers that are not finite become null, and more than `_MAX_DEPTH` levels count as malformed.
    """
    try:
        value = json.loads(text, parse_constant=lambda _: None)
        plain = text if isinstance(text, str) else ""
        if plain.count("[") + plain.count("{") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
            return MALFORMED
        return _whole(value) if "\\ud" in plain or "\\uD" in plain else value
    except (ValueError, TypeError, RecursionError):
        return MALFORMED


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        level = [each for part in level for each in (part.values() if isinstance(part, dict) else part)]
        depth += 1
    return depth


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(each) for key, each in value.items()}
    return value


class Reader:
    """Reads rows, and remembers those that it could not read."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    @property
    def num_unreadable(self) -> dict[str, int]:
        """Number of rows by table that could not be read at the last attempt."""
        with self._lock:
            return dict(Counter(table for table, _ in self._told))

    def read(self, kind: type[RowT], row: Base) -> RowT | None:
        """Return the row as a value; None if it cannot be read."""
        try:
            value = kind.model_validate(row)
        except ValidationError as error:
            self._tell(row, reason_of(error))
            return None
        self._forget(row)
        return value

    def read_all(self, kind: type[RowT], rows: Iterable[Base]) -> list[RowT]:
        """Return the values of those rows that can be read."""
        return [value for row in rows if (value := self.read(kind, row)) is not None]

    def reduced(self, kind: type[RowT], row: Base) -> RowT:
        """Return the row as a value, with placeholders for unreadable columns, which `unreadable` then names."""
        try:
            value = kind.model_validate(row)
        except ValidationError as error:
            reason = reason_of(error)
            self._tell(row, reason)
            return kind.with_placeholders(row, error, reason)
        self._forget(row)
        return value

    def _tell(self, row: Base, reason: str) -> None:
        key = _key_of(row)
        with self._lock:
            if self._told.get(key) == reason or (key not in self._told and len(self._told) >= _MAX_TOLD):
                return
            self._told[key] = reason
        logger.error("row %s of %s cannot be read and is passed over: %s", key[1], key[0], reason)

    def _forget(self, row: Base) -> None:
        if self._told:
            with self._lock:
                self._told.pop(_key_of(row), None)


def reason_of(error: ValidationError) -> str:
    """Describe what is wrong with a row, without any of its values: some are secret."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    told = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}"[:_MAX_REASON_CHARACTERS] for each in found]
    more = f"; and {len(told) - _MAX_REASONS} more" if len(told) > _MAX_REASONS else ""
    return "; ".join(told[:_MAX_REASONS]) + more


def _key_of(row: Base) -> tuple[str, str]:
    return row.__tablename__, "/".join(str(part)[:64] for part in inspect(row).identity or ())
