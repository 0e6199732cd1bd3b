"""The base class of the store's values: a frozen copy of one database row, or of its readable part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_NAMING = ("seq", "id", "name", "owner", "job_id", "url")  # fields by which a row is found and shown
END_OF_TIME = 253_402_300_799  # the last second of the year 9999: clients have no date after it

Seconds = Annotated[int, Field(ge=0, le=END_OF_TIME)]
"""Whole seconds since the epoch."""
Number = Annotated[int, Field(ge=-(2**31), lt=2**31 - 1)]
"""A whole number that can be increased by one: SQLite cannot do that with a larger one, and the
transaction would fail.
"""
Count = Annotated[int, Field(ge=0, lt=2**31 - 1)]
"""A whole number from 0 that can be increased by one."""


class Row(BaseModel):
    """A frozen copy of one database row.

    Attributes:
        PLACEHOLDERS: Placeholder of a column that cannot be read, by field; the field's default if none is named.
    """

    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {}

    model_config = ConfigDict(frozen=True, from_attributes=True)

    unreadable: str | None = Field(
        default=None, description="what of the row cannot be read; placeholders stand for it", exclude=True
    )

    @classmethod
    def with_placeholders(cls, row: object, error: ValidationError, reason: str) -> Self:
        """Return the row with a placeholder for every column that `error` names.

        Args:
            row: Object whose attributes are the columns.
            error: Error of validating the row.
            reason: Text for `unreadable`.
        """
        bad = {str(each["loc"][0]) for each in error.errors() if each["loc"]}
        given = {name: getattr(row, name) for name in set(cls.model_fields) - bad if hasattr(row, name)}
        try:
            return cls.model_validate({**cls._placeholders(), **given, "unreadable": reason})
        except ValidationError as again:  # a column that contradicts a placeholder is unreadable as well
            contradicted = {str(each["loc"][0]) for each in again.errors() if each["loc"]}
            kept = {name: given[name] for name in given if name in _NAMING and name not in contradicted}
            return cls.model_validate({**cls._placeholders(), **kept, "unreadable": reason})

    @classmethod
    def _placeholders(cls) -> dict[str, Any]:
        named = {name: None for name, field in cls.model_fields.items() if field.is_required()}
        return {**named, **cls.PLACEHOLDERS}


def parses(kind: type[BaseModel]) -> Callable[[Any], Any]:
    """Make a validator that leaves JSON unchanged if `kind` accepts it; its error names fields, and no values."""
    return parses_by(kind.model_validate)


def parses_by(parse: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Make a validator that leaves JSON unchanged if a function accepts it, which parses it with pydantic."""

    def check(value: Any) -> Any:
        try:
            parse(value)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise ValueError(f"{'.'.join(map(str, found['loc'])) or 'value'}: {found['msg']}") from None
        return value

    return check
