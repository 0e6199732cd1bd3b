"""What every value of the store is: a frozen copy of one database row, or of as much of it as can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_NAMING = ("seq", "id", "name", "owner", "job_id", "url")  # by these a row is found and shown
END_OF_TIME = 253_402_300_799  # the last second of the year 9999: later ones are no date for anybody who reads them

Seconds = Annotated[int, Field(ge=0, le=END_OF_TIME)]
"""Whole seconds since the epoch."""
Number = Annotated[int, Field(ge=-(2**31), lt=2**31 - 1)]
"""A whole number to which one can be added: of a larger one SQLite takes no successor, and the transaction fails."""
Count = Annotated[int, Field(ge=0, lt=2**31 - 1)]
"""The same of what is counted from none on."""


class Row(BaseModel):
    """A frozen copy of one database row.

    Attributes:
        PLACEHOLDERS: What stands for a column that cannot be read, by field; the field's default where none is named.
    """

    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {}

    model_config = ConfigDict(frozen=True, from_attributes=True)

    unreadable: str | None = Field(
        default=None, description="what of the row cannot be read; placeholders stand for it", exclude=True
    )

    @classmethod
    def with_placeholders(cls, row: object, error: ValidationError, reason: str) -> Self:
        """The row with a placeholder for every column that `error` names.

        Args:
            row: Whose attributes are the columns.
            error: What validating the row said.
            reason: For `unreadable`.
        """
        bad = {str(each["loc"][0]) for each in error.errors() if each["loc"]}
        given = {name: getattr(row, name) for name in set(cls.model_fields) - bad if hasattr(row, name)}
        try:
            return cls.model_validate({**cls._placeholders(), **given, "unreadable": reason})
        except ValidationError as again:  # what contradicts a placeholder is unreadable as well
            contradicted = {str(each["loc"][0]) for each in again.errors() if each["loc"]}
            kept = {name: given[name] for name in given if name in _NAMING and name not in contradicted}
            return cls.model_validate({**cls._placeholders(), **kept, "unreadable": reason})

    @classmethod
    def _placeholders(cls) -> dict[str, Any]:
        named = {name: None for name, field in cls.model_fields.items() if field.is_required()}
        return {**named, **cls.PLACEHOLDERS}


def parses(kind: type[BaseModel]) -> Callable[[Any], Any]:
    """A validator that leaves JSON as it is when `kind` takes it; its refusal names fields, and no value."""
    return parses_by(kind.model_validate)


def parses_by(parse: Callable[[Any], object]) -> Callable[[Any], Any]:
    """The same for whatever parses it with pydantic."""

    def check(value: Any) -> Any:
        try:
            parse(value)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise ValueError(f"{'.'.join(map(str, found['loc'])) or 'value'}: {found['msg']}") from None
        return value

    return check
