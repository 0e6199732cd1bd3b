"""What is an id on a model hub, and what is a path: no text is both."""

from __future__ import annotations

import re

_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def is_model_id(text: str) -> bool:
    """Whether a text has the form `name` or `owner/name`; then it is never taken for a path.

    A relative path would be looked for under the working directory of whichever process reads it, past the check of
    allowed roots.
    """
    return _MODEL_ID.fullmatch(text) is not None
