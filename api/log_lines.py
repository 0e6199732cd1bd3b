"""Log lines that nobody can forge: a text that came with a request stays on the line of its own message."""

from __future__ import annotations

import logging
import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class OneLine(logging.Formatter):
    """Escapes control characters in messages; lines of a traceback begin with `| `."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """The line, without the traceback."""
        return _CONTROL.sub(_escaped, super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        """The traceback."""
        text = super().formatException(ei)  # type: ignore[arg-type]  # typeshed's tuple of three
        return "\n".join(f"| {_CONTROL.sub(_escaped, line)}" for line in text.split("\n"))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
