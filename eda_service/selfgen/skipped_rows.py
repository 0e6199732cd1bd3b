"""Rows of a prompt file that hold no prompt: how many, why, and how many are too many."""

from __future__ import annotations

from dataclasses import dataclass, field

from eda_service.errors import DatasetInvalidError

_MAX_REASONS = 3


@dataclass
class SkippedRows:
    """Rows that are left out since they hold no prompt: how many, and why the first ones.

    Attributes:
        max_fraction: Above this share of all rows they are an error.
        num: How many there are.
        reasons: Of the first few, with their lines.
    """

    max_fraction: float
    num: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, error: DatasetInvalidError) -> None:
        """Leave a row out."""
        self.num += 1
        if len(self.reasons) < _MAX_REASONS:
            self.reasons.append(error.message)

    def check(self, num_read: int, param: str) -> None:
        """Look whether they are too many, once all rows were read.

        Raises:
            DatasetInvalidError: They are.
        """
        total = self.num + num_read
        if self.num > self.max_fraction * total:
            raise DatasetInvalidError(
                f"{self.reasons[0]}; {self.num} of {total} rows hold no prompt, at most {self.max_fraction:.0%} may be "
                "skipped (selfgen.max_error_fraction); mend them",
                param=param,
            )

    def __str__(self) -> str:
        """What was skipped and why, in one line; empty where nothing was."""
        if not self.num:
            return ""
        more = f"; and {self.num - len(self.reasons)} more" if self.num > len(self.reasons) else ""
        return f"{self.num} row{'s are' if self.num > 1 else ' is'} skipped: {'; '.join(self.reasons)}{more}"
