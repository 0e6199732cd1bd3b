"""References to packs and base drafts, `name@version`, parsed in one place.

A version is a number. For a pack, `latest` and `champion` can stand for a number, and a name alone means the version
that its user has pinned at the service, else the newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from eda_service.names import NAME_PATTERN


class Alias(StrEnum):
    """A word that stands for a version's number, and may mean another version tomorrow."""

    LATEST = "latest"
    CHAMPION = "champion"


_REFERENCE = re.compile(rf"(?P<name>{NAME_PATTERN})(@(?:(?P<alias>{'|'.join(Alias)})|(?P<number>[0-9]{{1,9}})))?")


@dataclass(frozen=True)
class Reference:
    """A reference to a pack or a base draft by its name.

    Attributes:
        name: Name, valid by `eda_service.names`.
        version: Version number or alias; None if the reference has none.
    """

    name: str
    version: int | Alias | None = None

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """Parse a reference; return None if the text is none."""
        found = _REFERENCE.fullmatch(text)
        if found is None:
            return None
        if found["alias"] is not None:
            return cls(found["name"], Alias(found["alias"]))
        return cls(found["name"], None if found["number"] is None else int(found["number"]))

    @property
    def number(self) -> int | None:
        """The version's number; None if the reference has an alias or no version."""
        return self.version if isinstance(self.version, int) else None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"
