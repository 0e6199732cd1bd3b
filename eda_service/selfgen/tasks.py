"""Prompts from a task generator: `reasoning-gym:gsm_symbolic`, with all templates or a range of them."""

from __future__ import annotations

import re

from eda_service.errors import DatasetInvalidError
from eda_service.selfgen.gsm_symbolic import NUM_TEMPLATES, usable_templates

PREFIX = "reasoning-gym:"
TASKS = ("gsm_symbolic",)
_RANGE = re.compile(r"templates=(?P<first>[0-9]{1,9})-(?P<last>[0-9]{1,9})")


def templates_of(source: str, *, param: str) -> range:
    """Return the templates that a source `reasoning-gym:<task>` or `reasoning-gym:<task>?templates=0-79` names.

    Raises:
        DatasetInvalidError: The task or the option does not exist, or the range holds no usable template.
    """
    task, question, options = source.removeprefix(PREFIX).partition("?")
    if task not in TASKS:
        raise DatasetInvalidError(
            f"{source[:128]!r} is unknown; use {PREFIX}{TASKS[0]}, with ?templates=0-79 for a part of them",
            param=param,
        )
    found = _RANGE.fullmatch(options)
    if question and found is None:
        raise DatasetInvalidError(
            f"{source[:128]!r} is unknown: its one option is a range of templates; write "
            f"{PREFIX}{TASKS[0]}?templates=0-79",
            param=param,
        )
    first, last = (0, NUM_TEMPLATES - 1) if found is None else (int(found["first"]), int(found["last"]))
    if not first <= last < NUM_TEMPLATES:
        raise DatasetInvalidError(
            f"templates {first}-{last} lie outside 0-{NUM_TEMPLATES - 1}; name a range inside", param=param
        )
    usable_templates(range(first, last + 1), param=param)
    return range(first, last + 1)
