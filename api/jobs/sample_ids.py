"""Ids of a job's samples: `smp_` and the rank among all of them, the most valuable first."""

from __future__ import annotations

import re

from eda_service.errors import InputError

_SAMPLE_ID = re.compile(r"^smp_(\d{1,12})$", re.ASCII)


def sample_id(rank: int) -> str:
    """The id of the sample of a rank, counted from 1."""
    return f"smp_{rank}"


def sample_rank(text: str | None) -> int:
    """The rank in a sample's id; 0 without one.

    Raises:
        InputError: It is no sample's id.
    """
    if text is None:
        return 0
    found = _SAMPLE_ID.fullmatch(text)
    if found is None:
        raise InputError("after is no sample id; use `last_id` of the page before", param="after")
    return int(found[1])
