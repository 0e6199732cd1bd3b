"""Rows of a prompt file that hold no prompt: their number, the reasons, and the limit."""

from __future__ import annotations

from dataclasses import dataclass, field

from eda_service.errors import DatasetInvalidError

_MAX_REASONS = 3


@dataclass
class SkippedRows:
    """Counts the rows that are skipped because they hold no prompt, and keeps the first reasons.

    Attributes:
        max_fraction: Fraction of all rows above which skipped rows are an error.
        num: Number of skipped rows.
        reasons: Reasons of the first few rows, with their lines.
    """

    max_fraction: float
    num: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, error: DatasetInvalidError) -> None:
        """Count a skipped row."""
        self.num += 1
        if len(self.reasons) < _MAX_REASONS:
            self.reasons.append(error.message)

    def check(self, num_read: int, param: str) -> None:
        """Check, once all rows were read, that not too many were skipped.

        Raises:
            DatasetInvalidError: The fraction of skipped rows is above `max_fraction`.
        """
        total = self.num + num_read
        if self.num > self.max_fraction * total:
            raise DatasetInvalidError(
                f"{self.reasons[0]}; {self.num} of {total} rows hold no prompt, at most {self.max_fraction:.0%} may be "
                "skipped (selfgen.max_error_fraction); mend them",
                param=param,
            )

    def __str__(self) -> str:
        """Describe the skipped rows and reasons in one line; empty if there are none."""
        if not self.num:
            return ""
        more = f"; and {self.num - len(self.reasons)} more" if self.num > len(self.reasons) else ""
        return f"{self.num} row{'s are' if self.num > 1 else ' is'} skipped: {'; '.join(self.reasons)}{more}"
