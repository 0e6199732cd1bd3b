"""Rules for names, hub ids and paths; no text is both a hub id and a path.

One rule holds for every name (packs, drafts, deployments, shipped targets): ASCII letters, digits, `_`, `.` and `-`, at
most 96 of them, starting with a letter or a digit. Names become parts of paths, of URLs and of HTTP headers, and none
of these takes every letter that Unicode has.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MAX_NAME_CHARACTERS = 96
"""Longest name: of configs, requests, paths, the client and the command line."""
NAME_PATTERN = rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_NAME_CHARACTERS - 1}}}"
"""Pattern of names, without anchors."""
NAME_RULE = f"ASCII letters, digits, '_', '.' and '-', at most {MAX_NAME_CHARACTERS}, a letter or digit first"
"""The rule of names in words, for messages."""

_NAME = re.compile(NAME_PATTERN)
_MODEL_ID = re.compile(f"{NAME_PATTERN}(/{NAME_PATTERN})?")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
_MAX_SUGGESTED = 3


def is_name(text: str) -> bool:
    """Whether a text may name a pack, a draft, a shipped target or a deployment; it is safe as a part of a path."""
    return _NAME.fullmatch(text) is not None


def is_model_id(text: str) -> bool:
    """Whether a text has the form `name` or `owner/name`; then it is never taken for a path.

    A relative path would be resolved in the working directory of the process that reads it, which would bypass the
    check of allowed roots.
    """
    return _MODEL_ID.fullmatch(text) is not None


def as_name(text: str) -> str:
    """Return the valid name that is closest to a text such as the last part of a path or of a hub id."""
    return _NOT_IN_A_NAME.sub("-", text).lstrip("_.-")[:MAX_NAME_CHARACTERS] or "model"


def close_names(name: str, known: Iterable[str], *, num: int = _MAX_SUGGESTED) -> list[str]:
    """Return the known names that are close to an unknown one, the closest first, at most `num` of them."""
    return difflib.get_close_matches(name[:256], list(known), n=num, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the known names close to an unknown one, or an empty text."""
    close = close_names(name, known)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
