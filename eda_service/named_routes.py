"""Routes of the service that an error names as the next step, in the words of the place where the error is shown.

The service says `GET /v1/packs lists them` to whoever asks over HTTP. At the command line the same step is a command,
and on a page it is another page.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_ROUTE = re.compile(r"GET /v1/([a-z][a-z_-]*)(?:/([A-Za-z0-9][\w.@-]*))?")

Words = Callable[[str, str | None], str | None]
"""Function that words a route by its resource, and by the name or id of one thing where it has one; None: it stays."""


def reworded(message: str, words: Words) -> str:
    """A message with its routes in other words."""

    def other(found: re.Match[str]) -> str:
        return words(found[1], found[2]) or found[0]

    return _ROUTE.sub(other, message)
