"""`name@version`, parsed once: packs and base drafts, and what a deployment follows.

A version is a number. Where a pack is asked for, `latest` and `champion` stand for one as well, and a name alone means
the version that its user has pinned at the service, else the newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from eda_service.names import NAME_PATTERN


class Alias(StrEnum):
    """What stands for a version's number, and may mean another one tomorrow."""

    LATEST = "latest"
    CHAMPION = "champion"


_REFERENCE = re.compile(rf"(?P<name>{NAME_PATTERN})(@(?:(?P<alias>{'|'.join(Alias)})|(?P<number>[0-9]{{1,9}})))?")


@dataclass(frozen=True)
class Reference:
    """A pack or a base draft, by its name.

    Attributes:
        name: As `eda_service.names` allows it.
        version: A number, or what stands for one; None where nothing was said.
    """

    name: str
    version: int | Alias | None = None

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """The reference that a text is; None for one that is none."""
        found = _REFERENCE.fullmatch(text)
        if found is None:
            return None
        if found["alias"] is not None:
            return cls(found["name"], Alias(found["alias"]))
        return cls(found["name"], None if found["number"] is None else int(found["number"]))

    @property
    def number(self) -> int | None:
        """The version, where it is named by its number."""
        return self.version if isinstance(self.version, int) else None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"
