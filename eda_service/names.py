"""Names of ours, ids on a model hub, and what is a path: no text is both of the last two."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def is_name(text: str) -> bool:
    """Whether a text may name a pack, a draft, a shipped target or a deployment; it is safe as a part of a path."""
    return _NAME.fullmatch(text) is not None


def is_model_id(text: str) -> bool:
    """Whether a text has the form `name` or `owner/name`; then it is never taken for a path.

    A relative path would be looked for under the working directory of whichever process reads it, past the check of
    allowed roots.
    """
    return _MODEL_ID.fullmatch(text) is not None
